"""What a job can tell its user: an input that cannot work, and what to change."""


class UserError(Exception):
    """The job was asked for something that cannot work. Nothing is wrong with the worker."""

    def __init__(self, field: str | None, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        """Parameter at fault, when one is."""
        self.message = message
        self.suggestion = suggestion
        """What to do about it."""


class GpuAbsent(UserError):
    """A GPU was granted, and none can be used."""


class OutOfGpuMemory(UserError):
    """The GPU's memory did not suffice; ``field`` is the parameter that asked for it."""
