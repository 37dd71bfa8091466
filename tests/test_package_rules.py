"""What the package never does, by reading its source: load pickles, run text, put values into SQL."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import undertow

PACKAGE = Path(undertow.__file__).parent
MODULES = [PACKAGE / "__init__.py", PACKAGE / "wiring.py"]
MODULES += [
    file for part in ("engine", "runners", "storage", "console") for file in sorted((PACKAGE / part).glob("*.py"))
]

PICKLERS = {"engine/memo.py", "runners/travel.py"}
"""Results of tasks that ask for pickle, and the pipes to worker processes."""

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "pty", "telnetlib", "xml.dom", "xml.sax"}
FORBIDDEN_ATTRIBUTES = {
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "tempfile.mktemp",
    "random.seed",
}

FILLED_IN = {
    ("storage/checkpoints.py", "'NORMAL' if self._syncs else 'OFF'"),
    ("storage/writing.py", "level"),
    ("storage/service.py", "self._writer.synchronous"),
    ("storage/service.py", "name"),
    ("storage/reading.py", "name"),
    ("console/health.py", "check"),
    ("storage/rows.py", "table"),
    ("storage/rows.py", "key"),
    ("storage/rows.py", "changes"),
    ("storage/rows.py", "', '.join(columns)"),
    ("storage/rows.py", "', '.join('?' * _size(rows))"),
    ("storage/rows.py", "', '.join([row] * size)"),
    ("storage/rows.py", "', '.join([LOG_LINE] * lines)"),
}
"""What is put into SQL beside constants of its module: names and question marks, each looked at."""


def relative(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def nodes(module: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(module.read_text()))


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module or ""} if isinstance(node, ast.ImportFrom) and node.level == 0 else set()


def test_pickle_only_where_asked_for() -> None:
    """Pickle is imported where a task's own option, or a pipe to a worker, calls for it, and nowhere else."""
    assert {relative(module) for module in MODULES for node in nodes(module) if "pickle" in imported(node)} == PICKLERS


def test_nothing_is_executed() -> None:
    """Nothing in the package runs text as code, a command in a shell, or loads a format that could."""
    found = []
    for module in MODULES:
        for node in nodes(module):
            bad = bool(imported(node) & FORBIDDEN_MODULES)
            if isinstance(node, ast.Call):
                bad = bad or (isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS)
                bad = bad or any(word.arg == "shell" for word in node.keywords)
            bad = bad or (isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_ATTRIBUTES)
            if bad:
                found.append(f"{relative(module)}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    assert found == []


SQL = (
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "DELETE ",
    "PRAGMA ",
    "WITH RECURSIVE ",
    "CREATE ",
    "DROP ",
    "ALTER ",
    "ATTACH ",
)


def test_no_value_is_put_into_sql() -> None:
    """Every value that SQL needs is given to it apart; only names that the package knows are put into its text."""
    found = set()
    for module in MODULES:
        for node in nodes(module):
            if isinstance(node, ast.JoinedStr) and literal(node.values[0]).lstrip().startswith(SQL):
                filled = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
                found |= {(relative(module), ast.unparse(each)) for each in filled if not is_constant(each)}
            if isinstance(node, ast.BinOp) and literal(node.left).lstrip().startswith(SQL):
                found.add((relative(module), ast.unparse(node)))
    assert found <= FILLED_IN


def literal(node: ast.expr) -> str:
    """The text of a constant; nothing, of anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def is_constant(node: ast.expr) -> bool:
    """Whether it is a constant of the module, or a function of the module's over constants."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and all(map(is_constant, node.args))
    if isinstance(node, ast.Attribute):
        return is_constant(node.value)
    if isinstance(node, ast.Name):
        return node.id.lstrip("_").isupper()
    return isinstance(node, ast.Constant | ast.JoinedStr)
