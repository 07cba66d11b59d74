"""Owners over HTTP: what each used, holds and may."""

import time
from typing import Annotated

from fastapi import APIRouter, Path

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.domain import Owner
from orchestrator.errors import Forbidden
from orchestrator.store import Holding
from orchestrator.usage import accrued, decayed
from orchestrator.views import OwnerLimits, OwnerView

router = APIRouter(prefix="/api", tags=["owners"])

OwnerName = Annotated[str, Path(alias="owner", min_length=1, max_length=100, description="The owner's name.")]


@router.get("/owners")
@needs(Role.READ)
async def owners(orchestrator: Orchestrator, who: Who) -> list[OwnerView]:
    """Everyone who has jobs, a share or limits, by name: what they used, hold, and may."""
    if who.owner is None and who.scoped:
        raise Forbidden(
            "this key sees jobs of some types only, and what an owner used and may covers all of them",
            suggestion="ask with a key for one owner, or for everything",
        )
    found = await _views(orchestrator)
    return [view for view in found if who.owner in (None, view.owner)]


@router.put("/owners/{owner:path}")
@needs(Role.ADMIN, whole=True)
async def put(orchestrator: Orchestrator, name: OwnerName, limits: OwnerLimits) -> OwnerView:
    """Give an owner a share and limits, in place of those it had. What runs goes on."""
    await orchestrator.store.owners.put(
        Owner(
            name,
            share=limits.share,
            max_running=limits.max_running,
            max_gpus=limits.max_gpus,
            max_queued=limits.max_queued,
        )
    )
    orchestrator.scheduler.wake()
    return next(view for view in await _views(orchestrator) if view.owner == name)


async def _views(orchestrator: State) -> list[OwnerView]:
    kept = await orchestrator.store.owners.all()
    queued = await orchestrator.store.owners.queued()
    holds: dict[str, list[Holding]] = {}
    for holding in await orchestrator.store.turns.holdings():
        holds.setdefault(holding.owner, []).append(holding)
    now, half_life_s = time.time(), orchestrator.settings.half_life_s
    found: list[OwnerView] = []
    for name in sorted(kept.keys() | queued.keys() | holds.keys()):
        owner, held = kept.get(name) or Owner(name), holds.get(name, [])
        used = decayed(owner.usage, now - owner.usage_at, half_life_s)
        used += sum(accrued(holding.weight, now - holding.since, half_life_s) for holding in held)
        found.append(
            OwnerView(
                owner=name,
                share=owner.share,
                max_running=owner.max_running,
                max_gpus=owner.max_gpus,
                max_queued=owner.max_queued,
                running=len(held),
                gpus=len({uuid for holding in held for uuid in holding.gpus}),
                queued=queued.get(name, 0),
                usage_gpu_s=used,
            )
        )
    return found
