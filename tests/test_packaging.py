"""The house: what is shipped, who imports whom, what the face names, and the habits that a program can check."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import undertow

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("engine", "runners", "storage", "console")
SHIPPED = sorted([*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EXTRAS = {"click", "dask", "distributed", "opentelemetry", "pydantic", "rich", "starlette", "uvicorn", "yaml"}

MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60


def parsed(files: list[Path]) -> Iterator[tuple[str, ast.Module]]:
    for file in files:
        yield str(file.relative_to(ROOT)), ast.parse(file.read_text("utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """The full names of the modules that a file of ours imports, wherever it does so."""
    package = ["undertow", *Path(name).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, node.module] if node.module else base
            yield from (".".join([*module, alias.name]) for alias in node.names)


# --- the face --------------------------------------------------------------------------------------------------


def face_for_type_checkers() -> dict[str, str]:
    """Each name of the face and its home, as the block under TYPE_CHECKING says them."""
    (tree,) = (tree for name, tree in parsed(SHIPPED) if name == "__init__.py")
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} is not exported: write `{alias.name} as {alias.name}`"
            homes[alias.name] = node.module or ""
    return homes


def test_face_says_the_same_twice() -> None:
    """What the face tells type checkers and what it tells the interpreter is the same, name by name."""
    assert face_for_type_checkers() == undertow._HOME_OF
    assert sorted(undertow.__all__) == sorted(face_for_type_checkers())


@pytest.mark.parametrize("name", undertow.__all__)
def test_face_has_each_name(name: str) -> None:
    """Each name of the face can be imported, and is the one that its home module has."""
    home = importlib.import_module(f"undertow.{undertow._HOME_OF[name]}")
    value = getattr(undertow, name)  # first, for the modules among them are loaded by that
    assert getattr(home, name) is value
    assert name in dir(undertow)


def test_face_without_a_name() -> None:
    """A name that the face does not have raises AttributeError with that name, as any module does."""
    with pytest.raises(AttributeError, match="'undertow' has no attribute 'tusk'"):
        undertow.tusk  # noqa: B018


def test_version() -> None:
    """`undertow.__version__` is the version in pyproject.toml."""
    assert f'version = "{undertow.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


# --- who imports whom ------------------------------------------------------------------------------------------

MAY_IMPORT = {
    "engine": {"engine"},
    "runners": {"engine", "runners"},
    "storage": {"engine", "storage"},
    "console": {"engine", "runners", "storage", "console", "wiring", "the face"},
    "wiring": {"engine", "runners", "storage"},
    "replaying": {"engine", "storage", "wiring"},
    "testing": {"engine", "wiring", "replaying"},
    "the face": {"engine", "runners", "storage", "console", "wiring"},
}


def floor(module: str) -> str | None:
    """Which part of the house a module is in; `None` for the modules of others."""
    first, *rest = module.split(".")
    if first != "undertow":
        return None
    return rest[0] if rest and rest[0] in MAY_IMPORT else "the face"


def test_import_directions() -> None:
    """The engine imports no other folder, runners and storage import only the engine, and the console is on top."""
    wrong = []
    for name, tree in parsed(SHIPPED):
        here = floor(f"undertow.{name.removesuffix('.py').replace('/', '.')}")
        assert here is not None
        wrong += [
            f"{name} imports {module}"
            for module in imported(name, tree)
            if (there := floor(module)) is not None and there not in MAY_IMPORT[here]
        ]
    assert wrong == []


def test_imports_stand_at_the_top() -> None:
    """No function imports anything but an optional third party."""
    wrong = [
        f"{name}:{function.name} imports {module}"
        for name, tree in parsed(SHIPPED)
        for function in functions(tree)
        for module in imported(name, function)
        if module.split(".")[0] not in EXTRAS
    ]
    assert wrong == []


def test_modules_are_loaded_once() -> None:
    """The repository is the package, and still each of its modules exists once in a process, under one name."""
    importlib.import_module("undertow.storage.journal")
    assert [name for name in sys.modules if name.endswith("storage.journal")] == ["undertow.storage.journal"]
    files = [str(getattr(module, "__file__", None)) for module in list(sys.modules.values())]
    ours = [file for file in files if file.endswith("/storage/journal.py")]
    assert len(ours) == 1


# --- what is shipped -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel that is built from a copy of the repository, with the tools that are here."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    left = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.db*")
    shutil.copytree(ROOT, source, ignore=left, dirs_exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(built),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = built.iterdir()
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_wheel_has_the_package(wheel: list[str]) -> None:
    """The wheel has every module of the package, the console's among them, and the marker that it is typed."""
    expected = {f"undertow/{file.relative_to(ROOT)}" for file in SHIPPED}
    assert {name for name in wheel if name.endswith(".py")} == expected
    assert "undertow/py.typed" in wheel
    assert "undertow/console/__init__.py" in wheel


def test_wheel_has_nothing_else(wheel: list[str]) -> None:
    """The wheel has no tests, benchmarks or examples, and installs nothing outside the package."""
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"undertow", f"undertow-{undertow.__version__}.dist-info"}
    assert {name.split("/")[1] for name in wheel if name.startswith("undertow/")}.isdisjoint(
        {"tests", "benchmarks", "examples", "undertow", "build"}
    )


# --- habits ----------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    """Shipped modules and functions stay small enough to be read."""
    long_modules = [name for name, _ in parsed(SHIPPED) if _lines(ROOT / name) > MAX_MODULE_LINES]
    long_functions = [
        f"{name}:{function.name} ({length} lines)"
        for name, tree in parsed(SHIPPED)
        for function in functions(tree)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert (long_modules, long_functions) == ([], [])


def _lines(file: Path) -> int:
    return file.read_text("utf-8").count("\n")


def test_modules_open_with_what_they_own() -> None:
    """Each module begins with a docstring."""
    assert [name for name, tree in parsed(SHIPPED + TESTS) if not ast.get_docstring(tree)] == []


def test_promises() -> None:
    """Each test has a docstring, one line that ends as a sentence does: together they are the specification."""
    unsaid = []
    for name, tree in parsed(TESTS):
        for function in functions(tree):
            if function.name.startswith("test_"):
                said = ast.get_docstring(function) or ""
                if not said.endswith(".") or "\n" in said:
                    unsaid.append(f"{name}:{function.name}")
    assert unsaid == []


FORBIDDEN = {
    ("time", "sleep"): "sleeps: use virtual time, or wait for what is to happen",
    ("mark", "skip"): "is skipped",
    ("mark", "skipif"): "is skipped",
    ("mark", "xfail"): "is expected to fail",
    ("pytest", "skip"): "is skipped",
    ("pytest", "xfail"): "is expected to fail",
    ("pytest", "importorskip"): "is skipped",
}


def test_no_sleeps_and_no_skips() -> None:
    """No test sleeps, is skipped, or is expected to fail."""
    found = []
    for name, tree in parsed(TESTS):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = node.value
                path = (getattr(owner, "attr", getattr(owner, "id", "")), node.attr)
                if path in FORBIDDEN:
                    found.append(f"{name}:{node.lineno} {FORBIDDEN[path]}")
            elif isinstance(node, ast.ImportFrom) and node.module == "time":
                found += [f"{name}:{node.lineno} sleeps" for alias in node.names if alias.name == "sleep"]
    assert found == []
