"""A story in which all happens that the orchestrator does to jobs; whenever it dies, somebody starts it again."""

from collections.abc import Collection
from functools import partial
from uuid import UUID, uuid4

from orchestrator.client import Client
from orchestrator.domain import JobStatus, Resources, RetryPolicy
from orchestrator.series import CHUNK_POINTS
from tests.chaos.host import TIMEOUT_S, Host
from tests.chaos.inputs import put_inputs
from tests.chaos.invariants import Remains, check_invariants
from tests.waiting import until
from worker_image.contract.rundir import RunDir

STEPS = 100
EVERY_STEPS = 20
LONG = 1_000_000
SMALL = Resources(gpus=0, cpus=0.5)
NUMBERED = """
echo $$ > "$SAEFORGE_RUN_DIR/starts"
i=0
while [ $i -lt $STEPS ]; do i=$((i+1)); echo "step $i"; [ $((i % 20)) -eq 0 ] && sleep 0.05; done
exit 0
"""


def container(steps: int = STEPS, image: str = "any") -> dict[str, object]:
    """Parameters of a container job that numbers its lines."""
    return {"image": image, "command": ["/bin/sh", "-c", NUMBERED], "env": {"STEPS": str(steps)}}


def training(steps: int = STEPS) -> dict[str, object]:
    """Parameters of a training job for the scripted worker."""
    rest = {"log_every_steps": 5, "checkpoint_every_steps": EVERY_STEPS}
    return {"model": "tiny", "dataset": "text", "steps": steps, **rest}


def tell(host: Host, fault: str = "") -> Remains:
    """Start an orchestrator that is to die at ``fault``, let everything happen, and look at what remains."""
    put_inputs(host.settings)
    host.start(fault)
    numbered = host.submit("container", container(), resources=SMALL)
    dying = host.submit("train_sae", training(), name="dies-once", resources=SMALL, retry=RetryPolicy(backoff_s=0.05))
    # These go on until they are told otherwise, however slow the machine is.
    names = ("plain", "deaf", "plain")
    paused, cancelled, stopped = (
        host.submit("train_sae", training(LONG), name=name, resources=SMALL) for name in names
    )
    # The first command of all is to one that never answers, so that it is still open when the next orchestrator looks.
    host.reaches(cancelled, {JobStatus.RUNNING})
    host.ask(lambda client: client.checkpoint(cancelled))
    until(lambda: orders_of(host, cancelled), "it is told", timeout_s=TIMEOUT_S)
    low = host.submit("train_sae", training(LONG), resources=Resources(gpus=2, cpus=1))
    host.reaches(low, {JobStatus.RUNNING})
    high = host.submit("train_sae", training(20), priority=10, resources=Resources(gpus=1, cpus=1))
    host.reaches(paused, {JobStatus.RUNNING})
    host.ask(lambda client: client.checkpoint(paused))
    host.ask(lambda client: client.pause(paused))
    host.reaches(stopped, {JobStatus.RUNNING})
    host.ask(lambda client: client.stop(stopped))
    host.ask(lambda client: client.cancel(cancelled))
    host.reaches(paused, {JobStatus.PAUSED})
    host.ask(lambda client: client.resume(paused))
    host.reaches(stopped, {JobStatus.STOPPED})
    for job_id in (paused, low, *_restarted(host, stopped)):
        host.reaches(job_id, {JobStatus.RUNNING, JobStatus.QUEUED} if job_id == low else {JobStatus.RUNNING})
        host.ask(partial(Client.stop, job_id=job_id))
        host.reaches(job_id, {JobStatus.STOPPED})
    for job_id in (numbered, dying, high):
        host.reaches(job_id, {JobStatus.COMPLETED})
    host.reaches(cancelled, {JobStatus.CANCELLED})
    host.quiesce()
    kept = host.ask(partial(Client.checkpoints, job_id=paused))
    assert kept is not None
    host.ask(partial(Client.delete_checkpoint, job_id=paused, name=kept[-1].name, attempt=kept[-1].attempt))
    host.acknowledged.discard(stopped)
    host.ask(lambda client: client.purge(stopped))
    host.quiesce()
    host.end()
    return look_at(host)


def orders_of(host: Host, job_id: UUID) -> bytes:
    """What the job was told, as far as the orchestrator has come; asking notices its death."""
    host.job(job_id)
    return RunDir.of(host.home, job_id, 1).commands.read_bytes()


def tell_of_containers(host: Host, image: str, fault: str = "") -> Remains:
    """What can happen to containers, in short."""
    put_inputs(host.settings)
    host.start(fault)
    numbered = host.submit("container", container(image=image), resources=SMALL)
    dying = host.submit("train_sae", training(40), name="dies-once", resources=SMALL, retry=RetryPolicy(backoff_s=0.05))
    cancelled = host.submit("container", container(100_000, image), resources=SMALL)
    host.reaches(cancelled, {JobStatus.RUNNING})
    host.ask(lambda client: client.cancel(cancelled))
    host.reaches(cancelled, {JobStatus.CANCELLED})
    for job_id in (numbered, dying):
        host.reaches(job_id, {JobStatus.COMPLETED})
    host.quiesce()
    host.end()
    return look_at(host)


def tell_of_many_measurements(host: Host, fault: str = "") -> Remains:
    """So many that they are packed while the job runs."""
    put_inputs(host.settings)
    host.start(fault)
    params = training(2 * CHUNK_POINTS) | {"log_every_steps": 1}
    job_id = host.submit("train_sae", params, name="hurries", resources=SMALL)
    host.reaches(job_id, {JobStatus.COMPLETED})
    series = host.ask(partial(Client.metrics, job_id=job_id))
    assert series is not None
    assert series.total == 2 * CHUNK_POINTS
    host.quiesce()
    host.end()
    return look_at(host)


def tell_of_an_orphan(host: Host, fault: str = "") -> None:
    """A run directory comes back whose job nobody knows: what runs there, nobody will ever ask for."""
    host.settings = host.settings.model_copy(update={"orphan_grace_s": 0})
    host.start()
    lost = host.submit("container", container(LONG), resources=SMALL)
    host.reaches(lost, {JobStatus.RUNNING})
    host.kill()
    for file in host.home.glob("saeforge.db*"):
        file.unlink()
    # Left there, it would be told of to the new database.
    run_dir, elsewhere = host.settings.runs / str(lost), host.home / "elsewhere"
    run_dir.rename(elsewhere)
    host.start()
    host.reaches(host.submit("container", container(1), resources=SMALL), {JobStatus.COMPLETED})
    host.kill()
    elsewhere.rename(run_dir)
    host.start(fault)
    until(lambda: host.ask(Client.health) and not host.owned(), "it was removed")


def look_at(host: Host, *, cancelled: Collection[UUID] = ()) -> Remains:
    """Check what remains of a home whose orchestrator has ended, and what was shown of it meanwhile."""
    remains = check_invariants(host.settings, host.executor(), acknowledged=host.acknowledged, cancelled=cancelled)
    for viewer in host.viewers:
        if viewer.job_id not in host.acknowledged:
            continue
        for attempt in remains.attempts[viewer.job_id]:
            log = RunDir.of(host.home, viewer.job_id, attempt.number).log
            shown = viewer.seen.get(attempt.number, b"")
            assert shown == (log.read_bytes() if log.exists() else b""), f"{attempt.name} was not shown as it is"
    return remains


def _restarted(host: Host, job_id: UUID) -> list[UUID]:
    """The job that a restart made: one, also where the answer was lost and it was asked for again."""
    key = str(uuid4())
    host.ask(lambda client: client.restart(job_id, idempotency_key=key))
    page = host.ask(lambda client: client.jobs(limit=100))
    assert page is not None
    made = [job.id for job in page.items if job.restarted_from == job_id]
    assert len(made) == 1, f"{job_id} was restarted {len(made)} times"
    host.acknowledged.update(made)
    return made
