"""Secrets, without their values."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from orchestrator.views.base import View


class SecretRequest(BaseModel):
    """Body of ``PUT /api/secrets/{name}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    value: SecretStr = Field(min_length=1, max_length=65_536)
    """What nobody is told again."""


class SecretView(View):
    """A secret, without its value."""

    name: str
    owner: str | None
    """Whose jobs may use it; everybody's when empty."""
    updated_at: datetime
