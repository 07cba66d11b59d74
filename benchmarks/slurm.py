"""Beside Slurm: how fast jobs are taken and started, and what a kill -9 of the controller leaves of them.

Needs root, and on Debian the packages ``munge slurmctld slurmd slurm-client`` and ``curl``. It runs a cluster of one
node of its own in a temporary directory (own key, own ports, default settings) and an orchestrator beside it, in turns,
and ends both. Not part of the tests.

Taking: the machine is full on both sides, so that jobs stay queued. ``sbatch`` is the interface that programs use, one
process for each job, so the orchestrator is asked by one ``curl`` process for each job as well; a client that keeps its
connection is shown beside. Starting: from the submit to the first line of the job's own program, by the clock on the
wall; Slurm runs it as a process, and in a container as sites without a container plugin do (``docker run`` in the
script). Before each start both are left alone for a while: Slurm puts off starting jobs that come soon after others.

What is not alike: Slurm answers before the job is on disk and writes its state every few seconds; ours is on disk when
it is answered. That is shown, not argued: jobs are submitted, the controller is killed at once and started again, and
those that were answered are looked for.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks import load
from benchmarks.server import Server
from benchmarks.submit import BODY
from benchmarks.table import quantile, show
from orchestrator.client import Client
from tests.engine import base_image
from tests.machine import Machine, free_port
from tests.waiting import until
from worker_image.contract.rundir import RunDir

AT_ONCE = 8
PAUSE_S = 5.0
"""Before each start."""
CONFIGURATION = """
ClusterName=benchmark
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
AccountingStorageType=accounting_storage/none
DefMemPerCPU=16
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=64 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submits", type=int, default=500, help="of each row")
    parser.add_argument("--rounds", type=int, default=10, help="starts of each kind")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeforge-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Cluster(folder / "slurm").running() as cluster:
            starts = starting(folder, cluster, given.rounds)
            takes, left = taking(folder, cluster, given.submits)
    show("Taking jobs, beside Slurm", ("", "per second", "p50 ms", "p99 ms"), takes)
    show("From submit to the program's first line, beside Slurm", ("", "p50 ms", "least", "most", "ratio"), starts)
    show("Jobs that were answered, after kill -9 of the controller", ("", "answered", "still there"), left)


class Cluster:
    """Slurm on this machine: munge, a controller, one node."""

    def __init__(self, folder: Path) -> None:
        for path in (folder, folder / "state", folder / "spool"):
            path.mkdir()
        self._folder = folder
        self._environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=os.uname().nodename, folder=folder, controller_port=free_port(), node_port=free_port()
            )
        )
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)

    @contextmanager
    def running(self) -> Iterator["Cluster"]:
        own = self._folder
        files = [f"--{name}-file={own}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        daemons = [self._start(["munged", "--foreground", "--force", f"--socket={own}/munge.socket", *files])]
        try:
            until((own / "munge.socket").exists, "munge is up")
            self._controller = self._start(["slurmctld", "-D"])
            daemons.append(self._start(["slurmd", "-D", "-N", "n1"]))
            until(lambda: "idle" in self._answer("sinfo", "-h", "-o", "%T"), "the node is up", timeout_s=60)
            yield self
        finally:
            self._answer("scancel", "--user=root")
            for daemon in (*reversed(daemons), self._controller):
                daemon.terminate()
                daemon.wait(30)

    def submit(self, *words: str) -> str:
        """The new job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", "--output=/dev/null", *words],
            env=self._environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def fill(self) -> None:
        number = self.submit("--exclusive", "--wrap", "sleep 86400")
        until(lambda: "R" in self._answer("squeue", "-h", "-j", number, "-o", "%t"), "the node is full", timeout_s=60)

    def known(self) -> set[str]:
        return set(self._answer("squeue", "-h", "-o", "%i").split())

    def kill_controller(self) -> None:
        """SIGKILL, and start it again."""
        self._controller.send_signal(signal.SIGKILL)
        self._controller.wait()
        self._controller = self._start(["slurmctld", "-D"])
        until(lambda: "UP" in self._answer("scontrol", "ping"), "the controller is back", timeout_s=60)

    def _start(self, words: Sequence[str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(words, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _answer(self, *words: str) -> str:
        return subprocess.run(words, env=self._environment, capture_output=True, text=True, check=False).stdout


# --- taking


def taking(folder: Path, cluster: Cluster, submits: int) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """How fast each takes jobs while it is full, and which of the last ones outlive a kill of the controller."""
    cluster.fill()
    server = Server(folder / "full", cpus="1")
    server.fill()
    rows: list[tuple[object, ...]] = []
    for at_once in (1, AT_ONCE):
        rows.append((f"sbatch, {at_once} at once", *_timed(lambda: cluster.submit("--wrap", "true"), submits, at_once)))
        rows.append((f"curl to saeforge, {at_once} at once", *_timed(lambda: _curl(server), submits, at_once)))
        seen = load.run(load.Load(server.port, server.key, "POST", "/api/jobs", BODY, submits, at_once))
        assert set(seen.statuses) == {201}, sorted(set(seen.statuses))
        times = [1000 * seconds for seconds in seen.latencies_s]
        figures = submits / seen.seconds, quantile(times, 0.5), quantile(times, 0.99)
        rows.append((f"kept connections to saeforge, {at_once} at once", *figures))
    answered = [cluster.submit("--wrap", "true") for _ in range(50)]
    cluster.kill_controller()
    slurm = ("Slurm", len(answered), len(cluster.known() & set(answered)))
    ours = [_curl(server) for _ in range(50)]
    server.kill()
    server = Server(folder / "full", cpus="1")
    with server.client() as client:
        there = {str(job.id) for job in client.each_job()}
    server.kill()
    return rows, [slurm, ("saeforge", len(ours), len(there & set(ours)))]


def _curl(server: Server) -> str:
    url, headers = f"http://127.0.0.1:{server.port}/api/jobs", ("Content-Type: application/json",)
    words = [word for header in (*headers, f"Authorization: Bearer {server.key}") for word in ("-H", header)]
    done = subprocess.run(["curl", "-sf", url, *words, "-d", BODY], capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["id"])


def _timed(submit: Callable[[], str], submits: int, at_once: int) -> tuple[float, float, float]:
    def once(_: int) -> float:
        began = time.perf_counter()
        submit()
        return 1000 * (time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        times = list(pool.map(once, range(submits)))
    return submits / (time.perf_counter() - began), quantile(times, 0.5), quantile(times, 0.99)


# --- starting


def starting(folder: Path, cluster: Cluster, rounds: int) -> list[tuple[object, ...]]:
    """Milliseconds from the submit to the first line of the program, in turns."""
    image = base_image()
    machine = Machine(folder / "home", "docker")
    machine.start()
    plain: list[float] = []
    contained: list[float] = []
    ours: list[float] = []
    try:
        with machine.client() as client:
            for number in range(rounds):
                said = folder / f"said-{number}"
                plain.append(_slurm_start(cluster, said, f"date +%s.%N > {said}"))
                said = folder / f"said-{number}-contained"
                run = f"docker run --rm --network none --init {image} date +%s.%N > {said}"
                contained.append(_slurm_start(cluster, said, run))
                ours.append(_own_start(client, machine, image))
    finally:
        machine.leave()
    base = quantile(contained, 0.5)
    kinds = (
        ("sbatch, a process", plain),
        ("sbatch, a container", contained),
        ("saeforge, a container", ours),
    )
    return [
        (title, quantile(times, 0.5), min(times), max(times), f"{quantile(times, 0.5) / base:.2f}")
        for title, times in kinds
    ]


def _slurm_start(cluster: Cluster, said: Path, script: str) -> float:
    time.sleep(PAUSE_S)
    began = time.time()
    cluster.submit("--wrap", script)
    until(lambda: said.exists() and said.read_text().endswith("\n"), "the job has spoken", timeout_s=120)
    return 1000 * (float(said.read_text()) - began)


def _own_start(client: Client, machine: Machine, image: str) -> float:
    time.sleep(PAUSE_S)
    began = time.time()
    job = client.submit("container", {"image": image, "command": ["date", "+%s.%N"]}).id
    client.wait(job, timeout_s=120, poll_s=0.05)
    return 1000 * (float(RunDir.of(machine.home, job, 1).log.read_text()) - began)


if __name__ == "__main__":
    main()
