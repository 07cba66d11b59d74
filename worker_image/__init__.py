"""What runs inside a job's container, and the contract the orchestrator shares with it."""

__version__ = "0.1.0"
"""Of saeforge as a whole: the image holds this package alone, so it is said here."""
