"""API keys and tokens over HTTP."""

from fastapi import APIRouter

from orchestrator.access import ApiKey, Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator, Who
from orchestrator.errors import StateConflict
from orchestrator.intake import job_type_name
from orchestrator.views import KeyRequest, KeyView, NewKeyView, PrincipalView, TokenRequest, TokenView

router = APIRouter(prefix="/api", tags=["keys"])


@router.get("/me")
@needs(Role.READ)
async def me(who: Who) -> PrincipalView:
    """For whom the key speaks, and what it may do."""
    return PrincipalView(
        id=who.id,
        name=who.name,
        role=who.role,
        owner=who.owner,
        types=list(who.types),
        expires_at=who.expires_at,
    )


@router.get("/keys")
@needs(Role.ADMIN, whole=True)
async def keys(orchestrator: Orchestrator) -> list[KeyView]:
    """Every key there ever was, newest first; never the keys themselves."""
    return [KeyView.model_validate(_fields(key)) for key in orchestrator.gate.keys.all()]


@router.post("/keys", status_code=201)
@needs(Role.ADMIN, whole=True)
async def create(orchestrator: Orchestrator, who: Who, request: KeyRequest) -> NewKeyView:
    """Make a key. The answer alone holds it: it is kept as a hash."""
    made, text = await orchestrator.gate.keys.make(
        name=request.name,
        role=request.role,
        by=who,
        owner=request.owner,
        types=tuple(job_type_name(name) for name in dict.fromkeys(request.types)),
        expires_at=request.expires_at,
    )
    return NewKeyView(**_fields(made), key=text)


@router.delete("/keys/{id}")
@needs(Role.ADMIN, whole=True)
async def revoke(orchestrator: Orchestrator, id: str) -> KeyView:
    """Take a key back at once and for good: its tokens, tickets and open streams end with it."""
    revoked = await orchestrator.gate.keys.revoke(id)
    orchestrator.gate.show_out(id)
    return KeyView.model_validate(_fields(revoked))


@router.post("/tokens", status_code=201)
@needs(Role.READ)
async def token(orchestrator: Orchestrator, who: Who, request: TokenRequest) -> TokenView:
    """Sign a short-lived token (HS256) that may do what its maker may, or less."""
    if orchestrator.gate.tokens is None:
        raise StateConflict("tokens are off", suggestion="set SAEFORGE_JWT_SECRET or SAEFORGE_JWT_SECRET_FILE")
    text, expires_at = orchestrator.gate.tokens.sign(who, role=request.role, lifetime_s=request.lifetime_s)
    return TokenView(token=text, expires_at=expires_at)


def _fields(key: ApiKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in KeyView.model_fields}
