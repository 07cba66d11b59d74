"""Secrets over HTTP. A value goes in and never comes out."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from orchestrator.access import Principal, Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator, Who
from orchestrator.errors import Forbidden
from orchestrator.views import SecretRequest, SecretView

router = APIRouter(prefix="/api/secrets", tags=["secrets"])

Name = Annotated[str, Path(description="As of a variable, e.g. HF_TOKEN.", max_length=64)]
Owner = Annotated[
    str | None, Query(min_length=1, max_length=100, description="Whose jobs may use it; everybody's when empty.")
]


@router.get("")
@needs(Role.WRITE)
async def secrets(orchestrator: Orchestrator, who: Who) -> list[SecretView]:
    """Names of the secrets that one's jobs may use."""
    found = await asyncio.to_thread(orchestrator.vault.all)
    # A key for some types of jobs speaks for no owner, so it sees what everybody's jobs may use.
    return [
        SecretView.model_validate(secret) for secret in found if not who.scoped or secret.owner in (None, who.owner)
    ]


@router.put("/{name}", status_code=204)
@needs(Role.WRITE)
async def put(
    orchestrator: Orchestrator, who: Who, name: Name, request: SecretRequest, owner: Owner = None
) -> Response:
    """Keep a secret, in place of the one of this name."""
    value = request.value.get_secret_value()
    await asyncio.to_thread(orchestrator.vault.put, name, _owner(who, owner), value)
    return Response(status_code=204)


@router.delete("/{name}", status_code=204)
@needs(Role.WRITE)
async def delete(orchestrator: Orchestrator, who: Who, name: Name, owner: Owner = None) -> Response:
    """Forget a secret. Jobs that run keep what they have."""
    await asyncio.to_thread(orchestrator.vault.delete, name, _owner(who, owner))
    return Response(status_code=204)


def _owner(who: Principal, wanted: str | None) -> str | None:
    """Whose secret it is. Raises: Forbidden."""
    if who.owner is not None:
        return who.owner_for(wanted)
    if wanted is None and who.scoped:
        raise Forbidden("owner: this key may not change what everybody's jobs use", field="owner")
    return wanted
