"""The report: `RESULTS.md` and the charts beside the results, made from them and nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import charts
from .budgets import BUDGETS, MAIN
from .charts import Series, number
from .engines import ENGINES, OURS, PEERS, RAW, Engine
from .results import Figure, Key, Run, read
from .workloads import WORKLOADS, Workload

Figures = Mapping[Key, Figure]
Row = Sequence[str]

AGAINST_PREFECT = 100
GROUPS = {"undertow": "undertow", "raw": "no engine", "peer": "peers"}
GROWTH = ("fan_out", "sequence")


def write(results: Path) -> str:
    """Write RESULTS.md and charts/ beside the results; give back the part about the budgets."""
    runs, figures = read(results)
    charts_folder = results.parent / "charts"
    charts_folder.mkdir(exist_ok=True)
    drawn: dict[str, str] = {}
    for name, svg in _charts(figures).items():
        (charts_folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        drawn[name] = f"![{name}](charts/{name}.svg)"
    budgets = _budgets(figures)
    sections = [
        _heading(runs),
        budgets,
        _overview(figures),
        _against_prefect(figures),
        "\n## Each workload\n",
        *(_detail(work, figures, drawn) for work in WORKLOADS.values()),
        _who(),
        _not_taken(figures),
    ]
    text = "\n".join(section for section in sections if section)
    (results.parent / "RESULTS.md").write_text(text, encoding="utf-8")
    return budgets


def table(head: Row, rows: Iterable[Row], right: Iterable[int] = ()) -> str:
    """A table in Markdown."""
    marks = ["--:" if i in right else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows)) + "\n"


def label(engine: str) -> str:
    """An engine as it is shown: undertow's usual journal goes without saying."""
    return (
        engine.replace("/", ", ").replace(", process", "")
        if engine.startswith("undertow")
        else engine.replace("/", ", ")
    )


def count(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def spread(figure: Figure) -> str:
    low, high = min(figure.samples), max(figure.samples)
    return f"{number(low)}…{number(high)}" if len(figure.samples) > 1 else ""


# --- sections --------------------------------------------------------------------------------------------------


def _heading(runs: Sequence[Run]) -> str:
    last = runs[-1]
    machine, canaries = last.machine, [canary for run in runs for canary in run.canaries]
    lines = [
        "# Results",
        "",
        "*Made by `python -m benchmarks report` from `results.jsonl`; not written by hand. How it is measured: "
        "[README.md](README.md).*",
        "",
        f"- Taken {', '.join(f'{run.at} ({run.scale})' for run in runs)}.",
        f"- {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']} "
        f"{machine['kernel']}.",
        "- " + ", ".join(f"{name} {version}" for name, version in last.versions.items()) + ".",
    ]
    if last.peers:
        lines.append("- Peers: " + ", ".join(f"{name} {version}" for name, version in last.peers.items()) + ".")
    seen = {name: sorted(canary[name] for canary in canaries) for name in canaries[0]}
    told = {
        name: f"{number(statistics.median(each))} ({number(each[0])}…{number(each[-1])})" for name, each in seen.items()
    }
    lines.append(
        f"- Meanwhile a fixed loop took {told['loop_ms']} ms, a small synced write {told['fsync_ms']} ms, and the load "
        f"of the machine was {told['load']}."
    )
    return "\n".join(lines) + "\n"


def _budgets(figures: Figures) -> str:
    rows = []
    for budget in BUDGETS:
        samples = [] if budget.missing(figures) else budget.samples(figures)
        if not samples:
            rows.append(
                (budget.title, budget.against, "–", "", _bound(budget), f"not taken: {budget.missing(figures)}")
            )
            continue
        median = statistics.median(samples)
        between = f"{number(min(samples))}…{number(max(samples))}" if len(samples) > 1 else ""
        figure = f"{number(median)} {budget.unit}"
        rows.append((budget.title, budget.against, figure, between, _bound(budget), budget.verdict(median)))
    head = ("work", "against", "figure", "min…max", "budget", "")
    text = "Each sample is a ratio of two figures taken one after the other; the figure is the median of the samples."
    return f"\n## Budgets\n\n{text}\n\n{table(head, rows, (2, 3, 4))}"


def _bound(budget: object) -> str:
    bound, unit = getattr(budget, "bound", None), getattr(budget, "unit", "")
    if bound is None:
        return "–"
    return f"{'≥' if getattr(budget, 'at_least', False) else '≤'} {bound:g} {unit}"


def _overview(figures: Figures) -> str:
    """One table of all: a row a workload, a column an engine."""
    shown = [engine for engine in ENGINES.values() if engine.is_main or engine.group == "peer"]
    shown = [engine for engine in shown if any(key[1] == engine.name and figures[key].samples for key in figures)]
    rows = []
    for work in WORKLOADS.values():
        unit = work.units[0]
        cells = [_cell(_largest(work, engine, figures), unit, work) for engine in shown]
        if any(cells):
            rows.append((f"`{work.name}`", unit, *cells))
    head = ("workload", "", *(label(engine.name) for engine in shown))
    text = "Medians; after the number, in brackets, how many tasks it was asked for where that is not the most of all."
    return f"\n## All at a glance\n\n{text}\n\n{table(head, rows, range(2, len(head)))}"


def _cell(figure: Figure | None, unit: str, work: Workload) -> str:
    if figure is None:
        return ""
    asked = work.sizes("full")[-1]
    return number(figure.median) + (f" ({count(figure.n)})" if figure.n != asked else "")


def _largest(work: Workload, engine: Engine, figures: Figures) -> Figure | None:
    taken = [figure for figure in _of(figures, work.name, engine.name, work.units[0]) if figure.samples]
    return max(taken, key=lambda figure: figure.n) if taken else None


def _of(figures: Figures, workload: str, engine: str, unit: str) -> list[Figure]:
    """All sizes of one workload with one engine, smallest first."""
    wanted = (workload, engine, unit)
    found = [figure for (work, who, _, of), figure in figures.items() if (work, who, of) == wanted]
    return sorted(found, key=lambda figure: figure.n)


def _against_prefect(figures: Figures) -> str:
    """Our cost over Prefect's, with the same number of tasks, or the nearest."""
    rows = []
    for work in WORKLOADS.values():
        unit = work.units[0]
        ours = [figure for figure in _of(figures, work.name, MAIN, unit) if figure.samples]
        for theirs in _of(figures, work.name, "prefect", unit):
            if not theirs.samples or not ours:
                continue
            near = min(ours, key=lambda figure: abs(figure.n - theirs.n))
            times = near.median / theirs.median if unit == "requests/s" else theirs.median / near.median
            asked = count(theirs.n) if near.n == theirs.n else f"{count(theirs.n)} / {count(near.n)}"
            met = "met" if times >= AGAINST_PREFECT else "**missed**"
            rows.append(
                (f"`{work.name}`", asked, number(theirs.median), number(near.median), unit, f"{times:,.0f} ×", met)
            )
    if not rows:
        return ""
    head = ("workload", "asked for", "Prefect", "undertow", "", "times", f"budget ≥ {AGAINST_PREFECT} ×")
    return f"\n## Against Prefect, the same program\n\n{table(head, rows, (1, 2, 3, 5))}"


def _detail(work: Workload, figures: Figures, drawn: Mapping[str, str]) -> str:
    """All figures of one workload."""
    rows = []
    for engine in ENGINES.values():
        for unit in work.units:
            for figure in _of(figures, work.name, engine.name, unit):
                if figure.samples:
                    value = number(figure.median)
                    rows.append((label(engine.name), count(figure.n), value, spread(figure), unit))
    if not rows:
        return ""
    chart = drawn.get(work.name, "")
    body = table(("engine", work.counted, "median", "min…max", ""), rows, (1, 2, 3))
    return f"\n### `{work.name}`: {work.title}\n\n{chart}\n\n{body}"


def _who() -> str:
    rows = [(label(engine.name), engine.says) for engine in (*RAW, *OURS, *PEERS)]
    return f"\n## Who is measured, and what it does\n\n{table(('engine', ''), rows)}"


def _not_taken(figures: Figures) -> str:
    """What could not be measured, and why; the engines that share a reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for figure in figures.values():
        if not figure.samples and figure.unit == WORKLOADS[figure.workload].units[0]:
            name = f"{label(figure.engine)} ({count(figure.n)})"
            reasons.setdefault((figure.workload, figure.not_taken), []).append(name)
    if not reasons:
        return ""
    rows = [(f"`{workload}`", "; ".join(names), reason) for (workload, reason), names in reasons.items()]
    return f"\n## Not taken\n\n{table(('workload', 'engine', 'because'), rows)}"


# --- charts ----------------------------------------------------------------------------------------------------


def _charts(figures: Figures) -> dict[str, str]:
    """An SVG for each workload with figures: lines where it was done with several numbers of tasks, else dots."""
    drawn = {}
    for work in WORKLOADS.values():
        unit = work.units[0]
        series = []
        for engine in ENGINES.values():
            taken = [each for each in _of(figures, work.name, engine.name, unit) if each.samples]
            taken = [each for each in taken if min(each.samples) > 0]
            if taken and (engine.is_main or engine.group == "peer" or work.name not in GROWTH):
                points = [(each.n, each.median, min(each.samples), max(each.samples)) for each in taken]
                series.append(Series(label(engine.name), engine.group, points))
        if len(series) < 2:
            continue
        title, y_title = f"{work.name}: {work.title}", f"{unit}, log scale"
        if work.name in GROWTH:
            drawn[work.name] = charts.lines(title, f"{work.counted}, log scale", unit, series)
        else:
            series = [Series(each.label, each.group, each.points[-1:]) for each in series]
            series.sort(key=lambda each: each.points[0][1])
            drawn[work.name] = charts.dots(title, y_title, series, GROUPS)
    return drawn
