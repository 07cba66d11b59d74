"""What a trained autoencoder's latents react to, over HTTP: pages of the file that a ``sae_features`` job left."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query
from fastapi import Path as InPath

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.jobs import JobId
from orchestrator.api.query import Limit, Offset
from orchestrator.api.state import Orchestrator, State
from orchestrator.confined import open_beneath
from orchestrator.errors import NotFound
from orchestrator.store import MAX_STEP
from orchestrator.views import Feature, FeatureList
from worker_image.contract.feature_file import NAME, FeatureFile, FeatureFileDamaged, FeatureSort
from worker_image.contract.jobs import SaeFeaturesParams
from worker_image.contract.rundir import RunDir

router = APIRouter(prefix="/api", tags=["jobs"])

Found = TypeVar("Found")


@router.get("/jobs/{id}/features")
@needs(Role.READ)
async def features(
    orchestrator: Orchestrator,
    job_id: JobId,
    offset: Offset = 0,
    limit: Limit = 50,
    sort: Annotated[FeatureSort, Query(description="With a minus, the greatest comes first.")] = "latent",
) -> FeatureList:
    """Latents that a sae_features job looked at, a page at a time."""
    return await _read(orchestrator, job_id, lambda file: file.page(offset=offset, limit=limit, sort=sort))


@router.get("/jobs/{id}/features/{latent}")
@needs(Role.READ)
async def feature(
    orchestrator: Orchestrator,
    job_id: JobId,
    latent: Annotated[int, InPath(ge=0, le=MAX_STEP, description="The latent's number.")],
) -> Feature:
    """One latent: its examples, histogram, logit effects and neighbours."""
    found = await _read(orchestrator, job_id, lambda file: file.feature(latent))
    if found is None:
        raise NotFound(
            f"job {job_id} looked at no latent {latent}",
            field="latent",
            suggestion=f"GET /api/jobs/{job_id}/features lists those it looked at",
        )
    return found


async def _read(orchestrator: State, job_id: JobId, ask: Callable[[FeatureFile], Found]) -> Found:
    """Raises: NotFound: the job left no such file, or a damaged one."""
    job = await orchestrator.store.job(job_id)
    if isinstance(job.params, SaeFeaturesParams):
        for item in await orchestrator.store.artifacts(job_id):
            if item.path == NAME:
                run_dir = RunDir.of(orchestrator.settings.home, job_id, item.attempt)
                with suppress(OSError):
                    return await asyncio.to_thread(_asked, run_dir, ask)
    raise NotFound(f"job {job_id} has no features", field="id", suggestion="name a sae_features job that has completed")


def _asked(run_dir: RunDir, ask: Callable[[FeatureFile], Found]) -> Found:
    # The worker made it, so no link may lead out; and it may change what is there while we look.
    descriptor = open_beneath(run_dir.path, f"{run_dir.artifacts.name}/{NAME}")
    try:
        with FeatureFile(Path(f"/proc/self/fd/{descriptor}")) as file:
            return ask(file)
    except FeatureFileDamaged as error:
        raise NotFound(f"{NAME} cannot be read: {error}", field="id", suggestion="run the job again") from error
    finally:
        os.close(descriptor)
