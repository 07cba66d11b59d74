"""How fast a job is taken: latency and sustained rate of durable submits over HTTP.

The load comes from another process on the same machine. The orchestrator is full, so that jobs stay queued and the
planner has all of them to decide about. Afterwards it is killed with SIGKILL, and the database must hold every job that
was answered, once. Beside it, in the same run: what the same HTTP stack answers when it has nothing to keep, and what
the disk allows when each job is committed alone.
"""

import argparse
import json
import sqlite3
import tempfile
import time
from pathlib import Path

from benchmarks import load
from benchmarks.server import Server
from benchmarks.table import quantile, show
from worker_image.contract.jobs import ContainerParams

BODY = json.dumps({"type": "container", "params": {"image": "busybox", "command": ["true"]}, "tags": ["benchmark"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000, help="submits of each row")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--per-second", type=float, nargs="*", default=[100, 300], help="rows at a fixed rate")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
        measure(Path(folder), given.requests, given.connections, given.per_second)


def measure(folder: Path, requests: int, connections: list[int], rates: list[float]) -> None:
    server = Server(folder / "home", cpus="1")
    answered: list[str] = []
    rows: list[tuple[object, ...]] = []

    def put_on(title: str, asked: load.Load) -> None:
        used_before = server.cpu_s
        seen = load.run(asked)
        cpu_ms = 1000 * (server.cpu_s - used_before) / len(seen.statuses)
        assert set(seen.statuses) <= {200, 201}, f"refused: {sorted(set(seen.statuses))}"
        answered.extend(seen.ids)
        rows.append((title, *_figures(seen), cpu_ms, len(answered)))

    try:
        server.fill()
        key, most = server.key, max(connections)
        for at_once in connections:
            ask = load.Load(server.port, key, "GET", "/health", "", requests, at_once)
            put_on(f"GET /health, {at_once} at once", ask)
        for at_once in connections:
            ask = load.Load(server.port, key, "POST", "/api/jobs", BODY, requests, at_once)
            put_on(f"submit, {at_once} at once", ask)
        ask = load.Load(server.port, key, "POST", "/api/jobs", BODY, requests, most, idempotent=True)
        put_on(f"submit with a key, {most} at once", ask)
        for rate in rates:
            ask = load.Load(server.port, key, "POST", "/api/jobs", BODY, requests, most, per_second=rate)
            put_on(f"submit, {rate:g} a second asked for", ask)
    finally:
        server.kill()
    check(server.home / "saeforge.db", answered)
    rows.append(
        ("the disk: one row, one commit, nothing else", *_alone(folder / "alone.db", min(requests, 1000)), "", "")
    )
    show("Submitting jobs", ("", "per second", "p50 ms", "p99 ms", "longest ms", "CPU ms each", "queued then"), rows)


def check(database: Path, answered: list[str]) -> None:
    """Fail unless every job that was answered is there, once."""
    with sqlite3.connect(database) as file:
        kept = {name for (name,) in file.execute("SELECT id FROM jobs")}
        (sound,) = file.execute("PRAGMA integrity_check").fetchone()
    file.close()
    assert len(set(answered)) == len(answered), "an id was given twice"
    assert set(answered) <= kept, f"{len(set(answered) - kept)} answered jobs were lost"
    assert sound == "ok", sound


def _figures(seen: load.Seen) -> tuple[float, float, float, float]:
    times = [1000 * seconds for seconds in seen.latencies_s]
    return len(times) / seen.seconds, quantile(times, 0.5), quantile(times, 0.99), max(times)


def _alone(path: Path, commits: int) -> tuple[float, float, float, float]:
    file = sqlite3.connect(path, isolation_level=None)
    file.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE jobs (params TEXT);")
    params = ContainerParams(image="busybox", command=["true"]).model_dump_json()
    seen = load.Seen()
    began = time.perf_counter()
    for _ in range(commits):
        at = time.perf_counter()
        file.execute("INSERT INTO jobs VALUES (?)", [params])
        seen.latencies_s.append(time.perf_counter() - at)
    seen.seconds = time.perf_counter() - began
    file.close()
    return _figures(seen)


if __name__ == "__main__":
    main()
