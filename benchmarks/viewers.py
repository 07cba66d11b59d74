"""Viewers of logs, in a process of their own (``python -m benchmarks.viewers``), and the writers of what they see.

What to do comes as JSON on standard input, what was seen goes as JSON to standard output. A line of a log is its place
and the moment it was written: ``<number> <nanoseconds since the epoch>``.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from websockets.asyncio.client import connect


@dataclass(frozen=True)
class View:
    """Which logs to follow, by how many viewers each, until each has sent so much."""

    port: int
    key: str
    jobs: list[str]
    viewers_each: int
    bytes_each: int
    timed: bool
    """Whether the lines tell when they were written."""


@dataclass
class Seen:
    """What came of it."""

    latencies_s: list[float] = field(default_factory=list)
    """Of each line: from its writing to the frame that brought it."""
    digests: list[str] = field(default_factory=list)
    """SHA-256 of what each viewer was sent."""
    frames: int = 0
    ended_at: float = 0.0
    """When the last viewer had all, seconds since the epoch."""
    cpu_s: float = 0.0


class Viewers:
    """A process of viewers; all are connected once this is made."""

    def __init__(self, view: View) -> None:
        program = [sys.executable, "-m", "benchmarks.viewers"]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(view)))
        self._process.stdin.close()
        assert self._process.stdout.readline() == "connected\n"

    def seen(self) -> Seen:
        """Wait until they have seen it all."""
        assert self._process.stdout is not None
        found = Seen(**json.loads(self._process.stdout.read()))
        assert self._process.wait() == 0
        return found


def write_lines(logs: list[Path], lines: int, every_s: float) -> None:
    """Append a line to every log, so many times; the logs take turns evenly within ``every_s``."""
    files = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for path in logs]
    begun = time.perf_counter()
    for number in range(lines * len(files)):
        time.sleep(max(0.0, begun + number * every_s / len(files) - time.perf_counter()))
        os.write(files[number % len(files)], line(number // len(files)))
    for file in files:
        os.close(file)


def line(number: int) -> bytes:
    return b"%08d %d\n" % (number, time.time_ns())


LINE_BYTES = len(line(0))


async def _follow(view: View, job: str, seen: Seen, connected: asyncio.Semaphore) -> None:
    uri = f"ws://127.0.0.1:{view.port}/api/jobs/{job}/logs?encoding=binary"
    headers = {"Authorization": f"Bearer {view.key}"}
    digest, received, rest = hashlib.sha256(), 0, b""
    async with connect(uri, additional_headers=headers, compression=None, max_size=None, proxy=None) as socket:
        connected.release()
        async for message in socket:
            if isinstance(message, str):
                continue
            now = time.time_ns()
            content = message.partition(b"\n")[2]
            digest.update(content)
            received += len(content)
            seen.frames += 1
            if view.timed:
                *whole, rest = (rest + content).split(b"\n")
                seen.latencies_s += [(now - int(text.split()[-1])) / 1e9 for text in whole]
            if received >= view.bytes_each:
                break
    seen.digests.append(digest.hexdigest())


async def _view(view: View) -> Seen:
    seen, connected = Seen(), asyncio.Semaphore(0)
    wanted = [job for job in view.jobs for _ in range(view.viewers_each)]
    following = []
    for job in wanted:
        following.append(asyncio.create_task(_follow(view, job, seen, connected)))
        if len(following) % 50 == 0:
            await asyncio.sleep(0.1)
    for _ in wanted:
        await connected.acquire()
    await asyncio.sleep(1.0)
    print("connected", flush=True)
    await asyncio.gather(*following)
    seen.ended_at, seen.cpu_s = time.time(), time.process_time()
    return seen


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(_view(View(**json.load(sys.stdin))))), sys.stdout)
