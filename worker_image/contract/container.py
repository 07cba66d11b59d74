"""The ``container`` job type."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from worker_image.contract.job_type import BASIC, JobType


class ContainerParams(JobType):
    """Run any command in any image that has a shell, with the same queue, log and limits."""

    title: ClassVar[str] = "Container"

    type: Literal["container"] = "container"

    image: str = Field(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9][\w./:@-]*$")
    """Image name as the engine knows it, e.g. "python:3.11-slim"."""
    command: Annotated[list[str], Field(min_length=1, max_length=1000)]
    """Program and arguments, one item each; no shell interprets them."""
    env: dict[str, str] = Field(default_factory=dict, json_schema_extra=BASIC)
    """Environment variables. Not for secrets: they are stored with the job."""

    @model_validator(mode="after")
    def _env_names(self) -> Self:
        for name, value in self.env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"env: {name!r} is not a variable name; use letters, digits and underscores")
            if "\0" in value:
                raise ValueError(f"env: the value of {name!r} holds a NUL character; remove it")
        if any("\0" in word for word in self.command):
            raise ValueError("command: an item holds a NUL character; remove it")
        return self

    def argv(self, run_dir: str, python: str = "python") -> tuple[str, ...]:
        return tuple(self.command)
