"""Keys, tokens and tickets, and for whom they speak."""

from datetime import datetime
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from orchestrator.access import Role
from orchestrator.views.base import View


class TicketRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    job_id: UUID | None = None
    """Job the ticket is good for; all jobs when empty."""


class TicketView(View):
    ticket: str
    expires_in_s: float


class PrincipalView(View):
    """For whom a request speaks."""

    id: str
    """Id of the key, "token:<subject>", "machine" or "anonymous"."""
    name: str
    role: Role
    owner: str | None
    """The only owner whose jobs it sees and acts on; all when empty."""
    types: list[str]
    """The only job types it sees and acts on; all when empty."""
    expires_at: datetime | None


class KeyRequest(BaseModel):
    """Body of ``POST /api/keys``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=100)
    """What people call it: who or what it is for."""
    role: Role = Role.READ
    """read, write (submit and act on jobs) or admin (manage keys as well)."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """The only owner whose jobs it sees and acts on; all when empty."""
    types: list[str] = Field(default=[], max_length=50)
    """The only job types it sees and acts on; all when empty."""
    expires_at: AwareDatetime | None = None
    """When it stops working; never when empty."""


class KeyView(View):
    """An API key, without the key itself."""

    id: str
    name: str
    role: Role
    owner: str | None
    types: list[str]
    created_at: datetime
    created_by: str
    """Id of the principal that made it."""
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """Written down once a minute."""


class NewKeyView(KeyView):
    key: str
    """The key itself. Nobody can tell it again."""


class TokenRequest(BaseModel):
    """Body of ``POST /api/tokens``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    role: Role | None = None
    """No mightier than one's own, which it is when empty."""
    lifetime_s: float = Field(default=3600.0, ge=1, le=86_400)
    """Seconds it is good for; never longer than the key it is made from."""


class TokenView(View):
    token: str
    expires_at: datetime
