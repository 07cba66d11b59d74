"""How much of the machine was used: what fair share goes by.

The unit is a weighted GPU second: one GPU held for one second, and a core for a small part of that. Past use decays
with a half-life. Only ended attempts are kept as a sum; those that run are added from when they began, so nothing
has to be written while they run.
"""

from collections.abc import Iterable
from datetime import datetime
from math import exp2, log
from typing import Final

from orchestrator.domain import Attempt

HALF_LIFE_S: Final = 86_400.0
"""Time after which past use counts half, unless the settings say otherwise."""
CPU_WEIGHT: Final = 0.02
"""What a core counts against a GPU."""
EXPECTED_S: Final = 3600.0
"""How long a job is taken to run when nothing is known, in seconds."""


def weight(cpus: float, gpus: float) -> float:
    """What holding this for one second counts, in GPU seconds."""
    return gpus + CPU_WEIGHT * cpus


def decayed(usage: float, age_s: float, half_life_s: float) -> float:
    """What is left of past use after ``age_s``."""
    return usage * exp2(-max(age_s, 0.0) / half_life_s)


def accrued(per_second: float, ran_s: float, half_life_s: float) -> float:
    """Use of something that began ``ran_s`` ago and goes on, decayed while it went: the integral in closed form."""
    rate = log(2) / half_life_s
    return per_second * (1 - exp2(-max(ran_s, 0.0) / half_life_s)) / rate


def gpu_hours(attempts: Iterable[Attempt], now: datetime) -> float:
    """Hours that attempts had GPUs for, up to now, each GPU counted; a shared one counts as a whole one."""
    return sum(
        len(attempt.gpus) * ((attempt.ended_at or now) - attempt.started_at).total_seconds() / 3600
        for attempt in attempts
        if attempt.started_at is not None
    )
