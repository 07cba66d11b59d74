"""A client that asks as fast as it is answered, or at a fixed rate, over connections it keeps open.

It runs as a process of its own (``python -m benchmarks.load``), reads what to do as JSON on standard input and writes
what it saw as JSON on standard output. It speaks just enough HTTP to cost little beside the server it measures.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Load:
    """What to ask, how often, and how many at once."""

    port: int
    key: str
    method: str
    path: str
    body: str
    requests: int
    connections: int
    per_second: float | None = None
    """Begin this many a second whatever the answers take; as fast as they come when empty."""
    idempotent: bool = False
    """Whether every request carries a key of its own."""


@dataclass
class Seen:
    """What came of it."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    """Of each request: from when it was due to the last byte of its answer."""
    statuses: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """The ``id`` of each answer that has one."""


def run(load: Load) -> Seen:
    """Put the load on from another process."""
    program = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(program, input=json.dumps(asdict(load)), capture_output=True, text=True, check=True)
    return Seen(**json.loads(done.stdout))


async def _put_on(load: Load) -> Seen:
    seen, due = Seen(), iter(range(load.requests))
    began = time.perf_counter()
    await asyncio.gather(*(_connection(load, due, began, seen) for _ in range(load.connections)))
    seen.seconds = time.perf_counter() - began
    return seen


async def _connection(load: Load, due: Any, began: float, seen: Seen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
    for number in due:
        at = time.perf_counter()
        if load.per_second is not None:
            at = began + number / load.per_second
            await asyncio.sleep(max(0, at - time.perf_counter()))
        writer.write(_request(load))
        status, body = await _answer(reader)
        seen.latencies_s.append(time.perf_counter() - at)
        seen.statuses.append(status)
        if load.method == "POST" and status == 201:
            seen.ids.append(json.loads(body)["id"])
    writer.close()
    await writer.wait_closed()


def _request(load: Load) -> bytes:
    lines = [
        f"{load.method} {load.path} HTTP/1.1",
        f"Host: 127.0.0.1:{load.port}",
        f"Authorization: Bearer {load.key}",
        *([f"Idempotency-Key: {uuid4()}"] if load.idempotent else []),
        "Content-Type: application/json",
        f"Content-Length: {len(load.body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + load.body).encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
    return int(head.split(" ", 2)[1]), await reader.readexactly(length)


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(_put_on(Load(**json.load(sys.stdin))))), sys.stdout)
