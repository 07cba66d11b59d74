"""Leaving a job's loop early."""

from worker_image.contract.commands import Pause, Stop
from worker_image.reporter import Terminated


class Halted(Exception):
    """The job was told to end early."""

    def __init__(self, instruction: Pause | Stop | Terminated) -> None:
        super().__init__(instruction)
        self.instruction = instruction
