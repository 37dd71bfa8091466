"""The tests under test: each planted bug is noticed by tests that pass where it is not.

What it takes to run tests is copied into a folder of its own for each bug, with the bug in it, and tests run there in
a process of their own, on that copy of the package: two at a time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import undertow
from tests.planted_bugs import BUGS, Change

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(240)]

ROOT = Path(__file__).parent.parent
PACKAGE = Path(undertow.__file__).parent

Outcome = subprocess.CompletedProcess[str]

PLUGINS = ("anyio.pytest_plugin", "pytest_timeout", "undertow.testing")
"""Those of pytest that the tests need; others that happen to be installed would cost each process a second."""

SOUND = "no bug"
"""What the copy without a bug goes by."""

NOTICED = re.compile(r"^FAILED tests/.* - (assert |AssertionError|Failed: DID NOT RAISE)", re.MULTILINE)
"""In what pytest prints: a test that failed because something was not as it asserts, and not by some other error."""


def copied(folder: Path) -> Path:
    """A copy of the package, with its compiled modules, and of the tests."""
    package = folder / "undertow"
    left = shutil.ignore_patterns("tests", ".*", "build", "benchmarks", "*.db*")
    shutil.copytree(PACKAGE, package, ignore=left, ignore_dangling_symlinks=True)
    shutil.copytree(ROOT / "tests", package / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", package)
    return package


def plant(package: Path, change: Change) -> None:
    """Make a change in a copy of the package."""
    file = package / change.file
    source = file.read_text("utf-8") if file.exists() else ""
    times = source.count(change.old)
    assert times == 1, (
        f"{change.file} has {times} times what a planted bug changes in it: {change.old!r}. Plant it anew."
    )
    file.write_text(source.replace(change.old, change.new), "utf-8")
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
        compiled.unlink()  # the copy of the original may look as if it were of this file


def outcome_of(folder: Path, tests: Iterable[str], changes: Iterable[Change] = ()) -> Outcome:
    """What comes of these tests on a copy in that folder, with these changes."""
    package = copied(folder)
    for change in changes:
        plant(package, change)
    left_out = ("PYTEST_", "COV_", "COVERAGE_", "UNDERTOW_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    arguments = ["-p", "no:cacheprovider", "-x", "-q", f"--basetemp={folder / 'temporary'}"]
    arguments += [argument for plugin in PLUGINS for argument in ("-p", plugin)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *(f"tests/{test}" for test in dict.fromkeys(tests))],
        cwd=package,
        env=environment | {"PYTHONPATH": str(folder), "COLUMNS": "300", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """What comes of the tests, by bug and on a sound copy, there or under way."""
    new_folder = partial(tmp_path_factory.mktemp, "planted")
    with ThreadPoolExecutor(2) as pool:
        sound = pool.submit(outcome_of, new_folder(), [test for bug in BUGS.values() for test in bug.tests])
        planted = {name: pool.submit(outcome_of, new_folder(), bug.tests, bug.changes) for name, bug in BUGS.items()}
        yield {SOUND: sound} | planted
        pool.shutdown(cancel_futures=True)


def test_without_a_bug(outcomes: dict[str, Future[Outcome]]) -> None:
    """On a copy without a bug all the tests pass that have to notice one."""
    outcome = outcomes[SOUND].result()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("name", BUGS)
def test_noticed(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    """Each planted bug makes one of its tests fail, by what that asserts."""
    outcome = outcomes[name].result()
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert NOTICED.search(outcome.stdout), outcome.stdout


def test_the_tests_of_the_promises() -> None:
    """Each test module, folder and program that RELIABILITY.md names is there."""
    named = set(re.findall(r"`(tests/[^`]+|test_\w+)`", (ROOT / "RELIABILITY.md").read_text("utf-8")))
    there = list((ROOT / "tests").rglob("*"))
    assert len(named) > 30
    assert named <= {str(each.relative_to(ROOT)) for each in there} | {each.stem for each in there}
