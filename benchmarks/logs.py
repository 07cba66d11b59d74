"""How fast, and how wholly, what a job writes reaches those who look.

*Latency*: lines with the time of their writing, from a real container where an engine answers, else from a process that
appends to the log as a container's program does; metrics the same way, from ``events.jsonl``. *Burst*: 100 MB/s for ten
seconds, and whether the viewer got every byte. *Many*: 1,000 viewers over 100 jobs. Viewers and writers are processes
of their own on the same machine, so that clocks agree and all of them share its cores.
"""

import argparse
import hashlib
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import docker
import psutil

from benchmarks.server import Server
from benchmarks.table import quantile, show
from benchmarks.viewers import LINE_BYTES, Seen, View, Viewers, write_lines
from orchestrator.client import Client
from tests.machine import Machine
from tests.waiting import until
from worker_image.contract.events import Metrics

IMAGE = "saeforge-base:bookworm"
PROGRAM = "sleep 3; i=0; while [ $i -lt {lines} ]; do printf '%08d ' $i; date +%s%N; i=$((i+1)); sleep {every_s}; done"
BLOCK_BYTES = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=300, help="lines of each latency row")
    parser.add_argument("--burst-s", type=float, default=10, help="seconds of the burst")
    parser.add_argument("--burst-mb-per-s", type=float, default=100)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--viewers-each", type=int, default=10, help="viewers of each of the jobs")
    parser.add_argument("--rounds", type=int, default=10, help="lines of each job, one a second, for the many viewers")
    parser.add_argument("--no-engine", action="store_true", help="leave out the row with a real container")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
        home = Path(folder)
        rows = [] if given.no_engine else _in_container(home / "docker", given.lines)
        server = Server(home / "fake", cpus="10000", log_quota_mb="0")
        try:
            rows.append(_latency(server, given.lines))
            rows.append(_metrics(server, given.lines))
            burst = _burst(server, given.burst_s, given.burst_mb_per_s)
            many = _many(server, given.jobs, given.viewers_each, given.rounds)
        finally:
            server.kill()
    show("Log line to frame", ("one viewer, one every 50 ms", "how many", "p50 ms", "p99 ms"), rows)
    show(
        "A burst, and one viewer with binary frames",
        (
            "asked for MB/s",
            "written MB",
            "written MB/s",
            "received MB/s",
            "behind at the end s",
            "equal",
            "server CPU s",
        ),
        [burst],
    )
    show(
        "Many viewers, a line a second of each job",
        ("viewers", "jobs", "lines", "p50 ms", "p99 ms", "server cores", "RSS MB", "files", "threads", "each got all"),
        [many],
    )


def _in_container(home: Path, lines: int) -> list[tuple[object, ...]]:
    """The row of a real container; none where there is no engine."""
    try:
        docker.from_env().images.get(IMAGE)
    except docker.errors.DockerException:
        return []
    machine = Machine(home, "docker")
    machine.start()
    try:
        with machine.client() as client:
            command = ["/bin/sh", "-c", PROGRAM.format(lines=lines, every_s=0.05)]
            job = client.submit("container", {"image": IMAGE, "command": command})
            until(lambda: client.job(job.id).attempts == 1, "it is begun")
            key = (home / "api-key").read_text().strip()
            view = View(machine.port, key, [str(job.id)], 1, lines * LINE_BYTES, timed=True)
            seen = Viewers(view).seen()
            client.wait(job.id, timeout_s=60)
    finally:
        machine.leave()
    return [("a log line by a shell in a container", *_figures(seen))]


def _latency(server: Server, lines: int) -> tuple[object, ...]:
    (job,), (log,) = _running(server, 1)
    viewers = Viewers(View(server.port, server.key, [job], 1, lines * LINE_BYTES, timed=True))
    write_lines([log], lines, 0.05)
    return ("a log line by a process beside", *_figures(viewers.seen()))


def _metrics(server: Server, lines: int) -> tuple[object, ...]:
    """The row of measurements: from a line of ``events.jsonl`` to the frame of the stored event."""
    (job,), (log,) = _running(server, 1)
    latencies_s: list[float] = []
    with server.client() as client, log.with_name("events.jsonl").open("ab", buffering=0) as file:
        events = client.follow_events(job, types=["metrics"])
        for number in range(1, lines + 1):
            time.sleep(0.05)
            now = time.time()
            file.write(
                (Metrics(seq=number, ts=now, step=number, values={"loss": 1.0}).model_dump_json() + "\n").encode()
            )
            assert next(events).seq == number
            latencies_s.append(time.time() - now)
        events.close()
    return ("a metric by a process beside", *_quantiles(latencies_s))


def _burst(server: Server, seconds: float, mb_per_s: float) -> tuple[object, ...]:
    (job,), (log,) = _running(server, 1)
    blocks = int(seconds * mb_per_s * 1e6 / BLOCK_BYTES)
    viewers = Viewers(View(server.port, server.key, [job], 1, blocks * BLOCK_BYTES, timed=False))
    cpu_s = _cpu_s(server)
    began = time.time()
    digest, written_at = _flood(log, blocks, mb_per_s)
    seen = viewers.seen()
    megabytes = blocks * BLOCK_BYTES / 1e6
    return (
        mb_per_s,
        megabytes,
        megabytes / (written_at - began),
        megabytes / (seen.ended_at - began),
        seen.ended_at - written_at,
        "yes" if seen.digests == [digest] else "NO",
        _cpu_s(server) - cpu_s,
    )


def _flood(log: Path, blocks: int, mb_per_s: float) -> tuple[str, float]:
    """Append lines as fast as asked for; the digest of all of them, and when the last was written."""
    digest, begun = hashlib.sha256(), time.perf_counter()
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(blocks):
        time.sleep(max(0.0, begun + number * BLOCK_BYTES / (mb_per_s * 1e6) - time.perf_counter()))
        block = b"".join(b"%09d-%089d\n" % (number, place) for place in range(BLOCK_BYTES // 10_000)) * 100
        digest.update(block)
        assert os.write(file, block) == BLOCK_BYTES
    os.close(file)
    return digest.hexdigest(), time.time()


def _many(server: Server, jobs: int, viewers_each: int, rounds: int) -> tuple[object, ...]:
    ids, logs = _running(server, jobs)
    half = len(ids) // 2
    parts = [part for part in (ids[:half], ids[half:]) if part]
    size = rounds * LINE_BYTES
    viewers = [Viewers(View(server.port, server.key, part, viewers_each, size, timed=True)) for part in parts]
    cpu_s, began = _cpu_s(server), time.time()
    writer = multiprocessing.get_context("spawn").Process(target=write_lines, args=(logs, rounds, 1.0))
    writer.start()
    process = psutil.Process(server.process.pid)
    files, threads, memory = process.num_fds(), process.num_threads(), process.memory_info().rss / 1e6
    seen = [one.seen() for one in viewers]
    writer.join()
    cores = (_cpu_s(server) - cpu_s) / (max(one.ended_at for one in seen) - began)
    latencies = [latency for one in seen for latency in one.latencies_s]
    digests = [digest for one in seen for digest in one.digests]
    expected = sorted(hashlib.sha256(log.read_bytes()).hexdigest() for log in logs for _ in range(viewers_each))
    return (
        len(digests),
        jobs,
        *_quantiles(latencies),
        cores,
        memory,
        files,
        threads,
        "yes" if sorted(digests) == expected else "NO",
    )


def _running(server: Server, count: int) -> tuple[list[str], list[Path]]:
    """Jobs that run for good, and their logs."""
    with server.client() as client:
        params = {"image": "busybox", "command": ["forever"]}
        ids = [str(client.submit("container", params).id) for _ in range(count)]
        until(lambda: _all_run(client, ids), "all jobs run", timeout_s=60)
    return ids, [server.home / "runs" / job / "1" / "log" for job in ids]


def _all_run(client: Client, ids: list[str]) -> bool:
    return client.job(ids[-1]).status == "running" and client.jobs(status="queued").total == 0


def _figures(seen: Seen) -> tuple[object, ...]:
    return _quantiles(seen.latencies_s)


def _quantiles(latencies_s: list[float]) -> tuple[object, ...]:
    return len(latencies_s), 1000 * quantile(latencies_s, 0.5), 1000 * quantile(latencies_s, 0.99)


def _cpu_s(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
