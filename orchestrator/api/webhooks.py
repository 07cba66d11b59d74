"""Webhooks over HTTP. For admins: whoever may name an address has the orchestrator talk to it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Response

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator
from orchestrator.store.webhooks import Webhook
from orchestrator.views import NewWebhookView, WebhookRequest, WebhookTryView, WebhookView

router = APIRouter(prefix="/api/webhooks", tags=["webhooks"])

HookId = Annotated[UUID, Path(description="The webhook's id.")]


@router.post("", status_code=201)
@needs(Role.ADMIN, whole=True)
async def create(orchestrator: Orchestrator, request: WebhookRequest) -> NewWebhookView:
    """Tell an address what happens from now on. The answer alone holds the secret that signs."""
    hook = Webhook(
        url=request.url,
        events=tuple(dict.fromkeys(request.events)),
        description=request.description,
        statuses=tuple(dict.fromkeys(request.statuses)),
        owner=request.owner,
        tag=request.tag,
    )
    added, secret = await orchestrator.courier.add(hook)
    return NewWebhookView(**WebhookView.model_validate(added).model_dump(), secret=secret)


@router.get("")
@needs(Role.ADMIN, whole=True)
async def webhooks(orchestrator: Orchestrator) -> list[WebhookView]:
    """Every webhook, oldest first; never the secrets."""
    return [WebhookView.model_validate(hook) for hook in await orchestrator.store.webhooks.all()]


@router.get("/{hook_id}")
@needs(Role.ADMIN, whole=True)
async def webhook(orchestrator: Orchestrator, hook_id: HookId) -> WebhookView:
    """One webhook, with how far it is."""
    return WebhookView.model_validate(await orchestrator.store.webhooks.one(hook_id))


@router.delete("/{hook_id}", status_code=204)
@needs(Role.ADMIN, whole=True)
async def delete(orchestrator: Orchestrator, hook_id: HookId) -> Response:
    """Send it nothing any more, and forget what was sent."""
    await orchestrator.courier.delete(hook_id)
    return Response(status_code=204)


@router.post("/{hook_id}/ping")
@needs(Role.ADMIN, whole=True)
async def ping(orchestrator: Orchestrator, hook_id: HookId) -> WebhookTryView:
    """Send a signed test now, once, and answer with what came of it."""
    return WebhookTryView.model_validate(await orchestrator.courier.ping(hook_id))


@router.post("/{hook_id}/enable")
@needs(Role.ADMIN, whole=True)
async def enable(
    orchestrator: Orchestrator,
    hook_id: HookId,
    skip: Annotated[bool, Body(embed=True, description="Leave out what it missed.")] = False,
) -> WebhookView:
    """Send again, from where it stopped, at once."""
    return WebhookView.model_validate(await orchestrator.courier.enable(hook_id, skip=skip))


@router.get("/{hook_id}/deliveries")
@needs(Role.ADMIN, whole=True)
async def deliveries(
    orchestrator: Orchestrator,
    hook_id: HookId,
    limit: Annotated[int, Query(ge=1, le=500, description="Most that are answered with.")] = 100,
) -> list[WebhookTryView]:
    """What became of the newest tries, newest first."""
    await orchestrator.store.webhooks.one(hook_id)
    found = await orchestrator.store.webhooks.tries(hook_id, limit=limit)
    return [WebhookTryView.model_validate(item) for item in found]
