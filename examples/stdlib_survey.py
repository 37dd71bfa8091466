"""A real job: survey the standard library of the Python that runs it. Some three thousand tasks, in a few seconds.

Every module's file is read, tokenised, parsed and measured, four tasks a file; the figures are gathered by package and
then into one report. On the way: limits, a flaky step that is retried, a file that can't be parsed and what is done
about it, and figures that are read back from the journal.

    python examples/stdlib_survey.py --journal demo.db
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import sqlite3
import sysconfig
import tokenize
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import attrs

from undertow import Engine, allow_failure, flow, runtime, task

NOT_SURVEYED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
BROKEN = ("broken_on_purpose.py", "print 'this was Python once'\n")
PYTHON = Path(sysconfig.get_path("stdlib"))


# --- what is measured ------------------------------------------------------------------------------------------


@attrs.frozen
class Function:
    """One function and how often it branches."""

    name: str
    branches: int


@attrs.frozen
class Structure:
    """What the syntax tree of a module says."""

    functions: int
    classes: int
    imports: tuple[str, ...]
    knottiest: Function


@attrs.frozen
class Measured:
    """The figures of one module."""

    module: str
    lines: int
    words: Counter[str]
    comments: int
    structure: Structure


@attrs.frozen
class Package:
    """The figures of a package, and the files that have none."""

    name: str
    modules: int
    lines: int
    comments: int
    functions: int
    classes: int
    words: Counter[str]
    imports: Counter[str]
    longest: tuple[int, str]
    knottiest: Function
    failures: int


# --- the tasks -------------------------------------------------------------------------------------------------


@task(
    limits=["disk"],
    retries=3,
    retry_delay_seconds=[0.05, 0.2],
    retry_jitter_factor=0.5,
    retry_on=BlockingIOError,
    task_run_name="read {path.name}",
)
async def read(path: Path) -> str:
    """The text of a module. One file in fifteen is "locked" at first, so that there is something to retry."""
    if zlib.crc32(path.name.encode()) % 15 == 0 and runtime.task_run.run_count == 1:
        raise BlockingIOError(f"{path.name} is locked by somebody else")
    raw = await anyio.Path(path).read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    return raw.decode(encoding)


@task(limits=["processor"])
def tokenise(source: str) -> tuple[Counter[str], int]:
    """How often each word occurs, and how many comments there are."""
    words: Counter[str] = Counter()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            words[token.string] += 1
        comments += token.type == tokenize.COMMENT
    return words, comments


@task(limits=["processor"])
def parse(source: str) -> Structure:
    """The structure of a module. Raises `SyntaxError` for what isn't Python."""
    nodes = list(ast.walk(ast.parse(source)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Structure(
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        imports=tuple(sorted(set(_imported(nodes)))),
        knottiest=max((_knots(node) for node in functions), key=_branches, default=Function("", 0)),
    )


@task
async def measure(module: str, source: str, counted: tuple[Counter[str], int], structure: Structure) -> Measured:
    """All the figures of one module together."""
    words, comments = counted
    name = f"{module}.{structure.knottiest.name}"
    structure = attrs.evolve(structure, knottiest=Function(name, structure.knottiest.branches))
    return Measured(module, source.count("\n"), words, comments, structure)


@task(task_run_name="summarise {package}")
async def summarise(package: str, modules: Sequence[Measured | Exception]) -> Package:
    """The figures of one package. A module that failed comes as the exception in its place."""
    good = [module for module in modules if isinstance(module, Measured)]
    return Package(
        name=package,
        modules=len(good),
        lines=sum(module.lines for module in good),
        comments=sum(module.comments for module in good),
        functions=sum(module.structure.functions for module in good),
        classes=sum(module.structure.classes for module in good),
        words=_total(module.words for module in good),
        imports=_total(Counter(module.structure.imports) for module in good),
        longest=max(((module.lines, module.module) for module in good), default=(0, "")),
        knottiest=max((module.structure.knottiest for module in good), key=_branches, default=Function("", 0)),
        failures=len(modules) - len(good),
    )


@task(when="any_failed")
async def note_failures(files: Sequence[str], outcomes: Sequence[object]) -> list[str]:
    """Runs only if a file could not be parsed, and says which, and why. Skipped otherwise."""
    return [
        f"{file}: {type(outcome).__name__}: {outcome}"
        for file, outcome in zip(files, outcomes, strict=True)
        if isinstance(outcome, Exception)
    ]


# --- the flow --------------------------------------------------------------------------------------------------


@attrs.frozen
class Survey:
    """The result of the job."""

    packages: list[Package]
    failures: list[str]


@flow
async def survey_stdlib(folders: list[Path]) -> Survey:
    """Read, tokenise, parse and measure every module in these folders, and gather the figures by package."""
    files = [(folder, path) for folder in folders for path in _modules(folder)]
    modules = [_dotted(path.relative_to(folder)) for folder, path in files]

    sources = read.map([path for _, path in files])
    counted = tokenise.map(sources)
    parsed = parse.map(sources)
    measured = measure.map(modules, sources, counted, parsed)
    failures = note_failures.submit([path.name for _, path in files], list(parsed))

    by_package = defaultdict(list)
    for (folder, path), future in zip(files, measured, strict=True):
        by_package[_package(path.relative_to(folder))].append(future)
    packages = [summarise.submit(name, allow_failure(futures)) for name, futures in by_package.items()]

    state = await failures.wait_async()
    noted = state.result() if state is not None and state.is_completed() else []
    return Survey([await package for package in packages], noted)


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.py")):
        if not NOT_SURVEYED.intersection(path.relative_to(folder).parts):
            yield path


def _package(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else "(single files)"


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _knots(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    kinds = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.BoolOp, ast.comprehension, ast.match_case)
    return Function(function.name, sum(isinstance(node, kinds) for node in ast.walk(function)))


def _branches(function: Function) -> int:
    return function.branches


def _total(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


# --- the report ------------------------------------------------------------------------------------------------

COSTS = """
SELECT task, count(*), sum(max(attempts - 1, 0)), sum(state_type = 'FAILED'), sum(state_type = 'SKIPPED')
FROM task_runs WHERE flow_run_id = ? GROUP BY task ORDER BY min(id)
"""
SECONDS = "SELECT (julianday(ended_at) - julianday(started_at)) * 86400 FROM flow_runs WHERE id = ?"


@attrs.frozen
class Cost:
    """What the journal says about the runs of one task."""

    task: str
    runs: int
    retries: int
    failed: int
    skipped: int


def spent(journal: str, run_id: str) -> tuple[list[Cost], float]:
    """The costs by task, and the seconds the whole took. A journal is a plain SQLite file with documented views."""
    with closing(sqlite3.connect(journal)) as connection:
        costs = [Cost(*row) for row in connection.execute(COSTS, (run_id,))]
        (seconds,) = connection.execute(SECONDS, (run_id,)).fetchone()
    return costs, seconds


def told(survey: Survey) -> list[str]:
    """The findings, as sentences."""
    packages = survey.packages
    words, imports = _total(p.words for p in packages), _total(p.imports for p in packages)
    longest = max(p.longest for p in packages)
    knottiest = max((p.knottiest for p in packages), key=_branches)
    lines = sum(p.lines for p in packages)
    return [
        f"{sum(p.modules for p in packages):,} modules hold {lines:,} lines, {sum(p.classes for p in packages):,} "
        f"classes and {sum(p.functions for p in packages):,} functions.",
        f"There is a comment every {lines / max(1, sum(p.comments for p in packages)):.0f} lines.",
        f"The longest module is {longest[1]} ({longest[0]:,} lines).",
        f"The knottiest function is {knottiest.name} ({knottiest.branches} branches).",
        f"The module that others need most is {_most(imports)}.",
        f"The most frequent word is {_most(words)}.",
        *(f"Not surveyed: {failure}" for failure in survey.failures),
    ]


def _most(counter: Counter[str]) -> str:
    ((word, times),) = counter.most_common(1)
    return f"{word!r} ({times:,} times)"


def show(survey: Survey, costs: list[Cost], seconds: float) -> None:
    """Print the report: with colours and bars where rich is installed, plainly where it is not."""
    packages = sorted(survey.packages, key=lambda package: -package.lines)[:12]
    total = f"{sum(c.runs for c in costs):,} task runs in {seconds:.1f} s, {sum(c.retries for c in costs)} retries"
    try:
        _show_rich(survey, packages, costs, total)
    except ImportError:
        _show_plain(survey, packages, costs, total)


def _show_rich(survey: Survey, packages: list[Package], costs: list[Cost], total: str) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console, Group  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.panel import Panel  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    findings = Panel(escape("\n".join(told(survey))), title="The standard library", subtitle=total, border_style="cyan")
    largest = Table("package", box=box.SIMPLE_HEAD, title="The largest packages", title_justify="left")
    for title in ("modules", "lines", "functions"):
        largest.add_column(title, justify="right", no_wrap=True)
    largest.add_column("", no_wrap=True)
    for p in packages:
        largest.add_row(p.name, str(p.modules), f"{p.lines:,}", f"{p.functions:,}", f"[cyan]{_bar(p, packages)}[/]")
    tasks = Table("task", box=box.SIMPLE_HEAD, title="What it took, says the journal", title_justify="left")
    for title in ("runs", "retries", "failed", "skipped"):
        tasks.add_column(title, justify="right")
    for c in costs:
        colours = {"yellow": c.retries, "red": c.failed, "dim": c.skipped}
        tasks.add_row(c.task, f"{c.runs:,}", *(f"[{colour}]{number or '·'}[/]" for colour, number in colours.items()))
    Console().print(Group(findings, largest, tasks))


def _show_plain(survey: Survey, packages: list[Package], costs: list[Cost], total: str) -> None:
    print("The standard library:", total, "\n")
    for sentence in told(survey):
        print(f"  {sentence}")
    print("\nThe largest packages\n")
    for p in packages:
        print(f"  {p.name:16} {p.modules:4} modules {p.lines:8,} lines  {_bar(p, packages)}")
    print("\nWhat it took, says the journal\n")
    for c in costs:
        print(f"  {c.task:16} {c.runs:5,} runs, {c.retries} retries, {c.failed} failed, {c.skipped} skipped")
    print()


def _bar(package: Package, packages: list[Package]) -> str:
    return "█" * max(1, round(20 * package.lines / max(1, max(p.lines for p in packages))))


async def main(journal: str, id_file: str | None) -> None:
    async with Engine(journal, limits={"disk": 16, "processor": os.cpu_count() or 1}) as engine:
        with TemporaryDirectory() as folder:
            name, text = BROKEN
            await anyio.Path(folder, name).write_text(text, encoding="utf-8")
            run = engine.start(survey_stdlib, [PYTHON, Path(folder)])
            if id_file is not None:
                await anyio.Path(id_file).write_text(run.run_id, encoding="utf-8")
            survey = await run
    show(survey, *spent(journal, run.run_id))
    print(f"Run {run.run_id} is in {journal}. See it with: undertow show {run.run_id} --journal {journal}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Survey the standard library of this Python.")
    parser.add_argument("--journal", default="demo.db", help="the journal's file (default: %(default)s)")
    parser.add_argument("--id-file", help="write the run's id to this file")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    options = parser.parse_args()
    anyio.run(main, options.journal, options.id_file, backend=options.backend)
