"""Why an autoencoder cannot be written in a layout, or read from a folder."""

from worker_image.errors import UserError


class CannotExpress(UserError):
    """The layout has no way of saying what this autoencoder computes."""

    def __init__(self, message: str, suggestion: str) -> None:
        super().__init__("export_formats", message, suggestion)


class Unreadable(UserError):
    """The folder holds no autoencoder that can be read."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__("source", message, suggestion)
