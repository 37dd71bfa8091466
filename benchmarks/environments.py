"""The environments of the peers: one each, with exactly the versions in `peers/NAME.txt`, built when asked for."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PINNED = HERE / "peers"
BUILT = HERE / ".peers"


def names() -> list[str]:
    return sorted(path.stem for path in PINNED.glob("*.txt"))


def python_of(name: str) -> Path:
    """The interpreter of an environment; that of this process for `""`."""
    return BUILT / name / "bin" / "python" if name else Path(sys.executable)


def is_built(name: str) -> bool:
    """Whether the environment is there, and made of what is pinned now."""
    stamp = BUILT / name / "pinned.txt"
    return not name or (stamp.exists() and stamp.read_bytes() == (PINNED / f"{name}.txt").read_bytes())


def build(name: str) -> None:
    """Make the environment, unless it is there. Raises `CalledProcessError` when something can't be installed."""
    if is_built(name):
        return
    pinned = PINNED / f"{name}.txt"
    venv.create(BUILT / name, clear=True, with_pip=True)
    pip = [python_of(name), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--requirement", pinned], check=True)
    subprocess.run([*pip, "check"], check=True)
    (BUILT / name / "pinned.txt").write_bytes(pinned.read_bytes())


def versions(name: str) -> dict[str, str]:
    """What is installed for a peer, as pinned."""
    lines = (PINNED / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)
