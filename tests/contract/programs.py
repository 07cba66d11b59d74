"""The programs that the executor contract is tested with: once as shell, once for the fake."""

import asyncio
from dataclasses import dataclass

from orchestrator.executors.fake import FakeProgram, FakeRun

SPOKEN = b"first line\nsecond \xff\xfe line\r\nno newline at the end"


@dataclass(frozen=True)
class Program:
    name: str
    shell: str
    """Run with ``sh -c`` on real executors."""
    fake: FakeProgram
    """What plays it on the fake."""


async def never(run: FakeRun) -> int:
    """Stands in for what only a real executor can run."""
    raise NotImplementedError(run.spec.argv)


async def _speak(run: FakeRun) -> int:
    run.write(SPOKEN)
    return 3


async def _obedient(run: FakeRun) -> int:
    run.write(b"ready\n")
    await run.terminated.wait()
    run.write(b"terminated\n")
    return 5


async def _stubborn(run: FakeRun) -> int:
    run.write(b"ready\n")
    await asyncio.Event().wait()
    return 0


SPEAK = Program(
    "speak",
    r"printf 'first line\nsecond \377\376 line\r\nno newline at the end'; exit 3",
    _speak,
)
"""Writes ``SPOKEN`` and exits with 3."""
OBEDIENT = Program(
    "obedient",
    "trap 'echo terminated; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
    _obedient,
)
"""Says "ready", and on SIGTERM "terminated", then exits with 5."""
STUBBORN = Program("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.05; done", _stubborn)
"""Says "ready" and ignores SIGTERM."""

PROGRAMS = (SPEAK, OBEDIENT, STUBBORN)
