"""A web server that answers each request with what a handler returns, asked over loopback by a second process."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

try:
    import uvicorn
except ImportError:  # in the environments of those that are not asked to serve
    uvicorn = None  # type: ignore[assignment]

from .frame import Answer, Order

CLIENTS = Path(__file__).with_name("clients.py")


def application(handler: Callable[[], Awaitable[int]]) -> Callable[..., Awaitable[None]]:
    """An ASGI application of one page."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = str(await handler()).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def serve_and_ask(handler: Callable[[], Awaitable[int]], order: Order) -> Answer:
    """Requests answered a second, with `order.n` clients at a time."""
    # Said to be TCP, or asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for an acknowledgement.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            application(handler), loop="none", lifespan="off", log_level="error", access_log=False, ws="none"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        port = listening.getsockname()[1]
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CLIENTS), str(port), str(order.n), str(order.seconds)),
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await client.communicate()
        server.should_exit = True
        await serving
    if client.returncode != 0:
        raise RuntimeError("no answer from the clients, who say why above")
    answer: Answer = json.loads(told)
    return answer
