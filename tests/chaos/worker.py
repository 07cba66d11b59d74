"""A training job in the contract's words, of numbered steps. Standard library only, so that it starts in no time.

``python worker.py <run directory>``. Each attempt first writes its process number to ``starts`` in its run directory,
which would tell of a second process, and then the lines ``step <n>``, from the step after its checkpoint. What it does
beside is told by the job's name:

    dies-once     its first attempt kills itself half way
    hurries       it does not pause between steps
    deaf          it takes no command, no SIGTERM, and writes no checkpoint
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

STEP_S = 0.004
STEP = "step"
"""File in a checkpoint that holds the number of steps done."""
STARTS = "starts"
NO_DIGEST = "sha256:" + "0" * 64


class Died(Exception):
    """It kills itself here."""


class Attempt:
    """What an attempt does, one step at a time."""

    def __init__(self, run_dir: Path, log: IO[str]) -> None:
        self.run_dir, self.log = run_dir, log
        self.spec = json.loads((run_dir / "params.json").read_text())
        self.name, self.params = self.spec["name"], self.spec["params"]
        self.step = int((Path(self.spec["resume_from"]) / STEP).read_text()) if self.spec["resume_from"] else 0
        self.terminated = False
        self._seq = 0
        self._read = 0
        self._events = os.open(run_dir / "events.jsonl", os.O_WRONLY | os.O_APPEND)

    def emit(self, type: str, **fields: object) -> None:
        self._seq += 1
        line = json.dumps({"type": type, "seq": self._seq, "ts": time.time(), **fields}) + "\n"
        os.write(self._events, line.encode())

    def steps(self) -> Iterator[int]:
        """Do the work; hand over after each step. Raises: Died."""
        every = self.params["checkpoint_every_steps"]
        self.emit("started", device="cpu", summary={}, resumed_from=self.spec["resume_from"])
        while self.step < self.params["steps"]:
            self.step += 1
            self.log.write(f"step {self.step}\n")
            self.log.flush()
            if self.step % self.params["log_every_steps"] == 0:
                self.emit("metrics", step=self.step, values={"loss": 1 / self.step})
                self.emit("progress", phase="training", done=self.step, total=self.params["steps"], unit="steps")
            if self.name != "deaf" and self.step % every == 0:
                self.save("interval")
            if self.name == "dies-once" and self.spec["attempt"] == 1 and self.step == self.params["steps"] // 2:
                raise Died
            if self.name != "deaf" and (outcome := self.told()):
                self.emit("finished", outcome=outcome)
                return
            yield self.step
        self.save("final")
        (self.run_dir / "artifacts" / "sae.safetensors").write_text("weights")
        self.emit("artifact_saved", path="sae.safetensors", kind="sae", size_bytes=7, digest=NO_DIGEST)
        self.emit("finished", outcome="completed", results={"fvu": 0.1})

    def told(self) -> str | None:
        """Do what was asked for; how the attempt ended by it, if it did."""
        outcome = None
        for command in self._commands():
            kind = command["type"]
            if kind != "set_learning_rate":
                self.save("command" if kind == "checkpoint" else kind)
            self.emit("command_applied", command_id=command["id"])
            if kind in ("pause", "stop"):
                outcome = {"pause": "paused", "stop": "stopped"}[kind]
        if self.terminated and outcome is None:
            self.save("stop")
            outcome = "stopped"
        return outcome

    def save(self, reason: str) -> None:
        name = f"step_{self.step}"
        folder = self.run_dir / "checkpoints" / name
        if not folder.exists():
            draft = folder.with_name(f".{name}")
            draft.mkdir()
            (draft / STEP).write_text(str(self.step))
            draft.rename(folder)
        self.emit("checkpoint_saved", name=name, step=self.step, size_bytes=1, digest=NO_DIGEST, reason=reason)

    def _commands(self) -> list[dict[str, str]]:
        with (self.run_dir / "commands.jsonl").open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def sign(run_dir: Path, name: str) -> None:
    """Leave a trace of having been started."""
    with (run_dir / STARTS).open("a") as starts:
        starts.write(f"{name}\n")


def main(run_dir: Path) -> None:
    sign(run_dir, str(os.getpid()))
    attempt = Attempt(run_dir, sys.stdout)

    def terminate(*_: object) -> None:
        attempt.terminated = True

    signal.signal(signal.SIGTERM, signal.SIG_IGN if attempt.name == "deaf" else terminate)
    try:
        for _ in attempt.steps():
            time.sleep(0 if attempt.name == "hurries" else STEP_S)
    except Died:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
