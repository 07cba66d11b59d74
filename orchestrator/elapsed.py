"""How long ago something was, by a clock that nobody sets."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Self


@dataclass(frozen=True)
class Elapsed:
    """The time since a moment that may have been written down by an earlier process.

    The wall clock is asked once; from then on the machine's own count tells. So a clock that is set while a job runs
    neither ends the job nor lets it run on.
    """

    _before_s: float
    _counted_from: float

    @classmethod
    def since(cls, moment: datetime) -> Self:
        """``moment`` is by the wall clock; one that is still to come counts as now."""
        return cls(max(time.time() - moment.timestamp(), 0.0), time.monotonic())

    @property
    def seconds(self) -> float:
        return self._before_s + time.monotonic() - self._counted_from
