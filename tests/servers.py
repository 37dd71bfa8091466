"""Real web servers for tests: a child process on a free port of the loopback interface, with its log in a file.

A server is waited for until it answers, and its whole process tree is gone when the `with` block ends, however it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import httpx
import psutil

EXAMPLES = Path(__file__).parent.parent / "examples"

PATIENCE = 30.0
"""Seconds after which what is waited for will not come any more."""

LOOK_SECONDS = 0.02
"""How long to wait before the next look at what another process does."""

_COMPLAINTS = ("WARNING", "ERROR", "CRITICAL", "Traceback", "Exception")


@attrs.define
class Server:
    """A server that runs, or did."""

    app: str
    url: str
    folder: Path
    """Where it works: its journal and other files."""
    process: psutil.Popen

    @property
    def journal(self) -> Path:
        return self.folder / "web.db"

    def log(self) -> str:
        """All that it and its workers have said."""
        return (self.folder / "server.log").read_text()

    def complaints(self) -> list[str]:
        """Lines of its log that are more than information."""
        return [line for line in self.log().splitlines() if any(word in line for word in _COMPLAINTS)]

    def answers(self) -> bool:
        """Whether it serves requests now."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def until(self, condition: Callable[[], object], what: str = "it is so") -> None:
        """Look again and again until a condition holds; a server that ends meanwhile is not waited for."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            with suppress(psutil.TimeoutExpired):
                self.process.wait(LOOK_SECONDS)
                raise ChildProcessError(f"The server ended before {what}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Not within {PATIENCE:g} s: {what}.\n{self.log()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Send it a signal, and return after how many seconds it had ended."""
        start = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        return time.monotonic() - start


@contextmanager
def uvicorn(app: str, *options: str, folder: Path, **environment: str) -> Iterator[Server]:
    """An application under uvicorn, in a folder that is also where its module may be."""
    command = ["uvicorn", app, "--no-access-log", "--timeout-graceful-shutdown", "2", *options]
    port = _free_port()
    with _serving([*command, "--host", "127.0.0.1", "--port", str(port)], app, port, folder, environment) as server:
        yield server


@contextmanager
def hypercorn_on_trio(app: str, *, folder: Path, **environment: str) -> Iterator[Server]:
    """An application under hypercorn, on trio."""
    port = _free_port()
    command = ["hypercorn", "--worker-class", "trio", "--graceful-timeout", "2", "--bind", f"127.0.0.1:{port}", app]
    with _serving(command, app, port, folder, environment) as server:
        yield server


@contextmanager
def _serving(command: list[str], app: str, port: int, folder: Path, environment: dict[str, str]) -> Iterator[Server]:
    url = f"http://127.0.0.1:{port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTOW")}
    path = os.pathsep.join([str(folder), str(EXAMPLES), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with open(folder / "server.log", "a") as log:
        process = psutil.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=kept | {"PYTHONPATH": path.rstrip(os.pathsep)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    server = Server(app, url, folder, process)
    try:
        server.until(server.answers, "it answers")
        yield server
    finally:
        _end(process)


def _end(process: psutil.Popen) -> None:
    """End what is left of a server and its workers."""
    family = [process]
    if process.is_running():
        family += process.children(recursive=True)
    for each in family:
        if each.is_running():
            each.kill()
    psutil.wait_procs(family, PATIENCE)


class Supplier:
    """The service that the examples ask for prices; it lets articles from 10 000 on wait until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        go_on = self.go_on

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                article = int(self.path.rpartition("/")[2])
                if article >= 10_000:
                    go_on.wait(PATIENCE)
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):  # who asked has hung up
                    self.wfile.write(str(article * 150).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Supplier:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
