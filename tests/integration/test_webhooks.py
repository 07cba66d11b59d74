"""Webhooks: told at least once, in order, through failures of the receiver and restarts of the orchestrator."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from orchestrator.client import Client
from orchestrator.domain import JobStatus
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.executors.fake import FakeEngine
from orchestrator.views import NewWebhookView, WebhookRequest
from tests.integration.conftest import Orchestrator
from tests.scripted_api import HANG_UP, Answer, Request, Script, http_server
from tests.waiting import until
from worker_image.contract.events import CheckpointSaved, Metrics, Progress

SETTINGS = {"cpus": 64, "webhook_allow": "127.0.0.1", "webhook_backoff_s": 0.05, "webhook_timeout_s": 5.0}


class Receiver:
    """A real server, and what it was sent."""

    def __init__(self, script: Script, url: str) -> None:
        self.script, self.url = script, url + "/hook"

    @property
    def requests(self) -> list[Request]:
        return list(self.script.requests)

    @property
    def told(self) -> list[dict]:  # type: ignore[type-arg]
        return [json.loads(request.body) for request in self.requests]

    def statuses_of(self, job_id: str) -> list[str]:
        """What it was told of a job, in the order in which it was, each once."""
        seen: dict[str, str] = {}
        for request in self.requests:
            body = json.loads(request.body)
            if body.get("job_id") == job_id:
                seen[request.headers["webhook-id"]] = body["data"].get("to", body["type"])
        return list(seen.values())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    script = Script(Answer(204, body=b""))
    with http_server(script) as url:
        yield Receiver(script, url)


@pytest.fixture
def orchestrator(home: Path, engine: FakeEngine) -> Iterator[Orchestrator]:
    started = Orchestrator.start(home, engine, **SETTINGS)
    yield started
    started.stop()


@pytest.fixture
def client(orchestrator: Orchestrator) -> Client:
    return orchestrator.client


def completed(orchestrator: Orchestrator, **kwargs: object) -> str:
    job_id = orchestrator.submit(**kwargs)  # type: ignore[arg-type]
    orchestrator.reaches(job_id, "running")
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    return job_id


def hook(client: Client, receiver: Receiver, **changes: object) -> NewWebhookView:
    return client.add_webhook(WebhookRequest(url=receiver.url, **changes))  # type: ignore[arg-type]


LIFE = ["job_created", "starting", "running", "completed"]


def test_a_job_is_told_from_its_submit_to_its_end_in_order(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    hook(client, receiver)
    job_id = completed(orchestrator, name="mine", owner="ada", tags=["a", "b"])
    until(lambda: len(receiver.statuses_of(job_id)) == len(LIFE), "it is told", lambda: receiver.told)
    assert receiver.statuses_of(job_id) == LIFE
    last = receiver.told[-1]
    assert last["name"] == "training:completed"
    assert last["job"] == {"name": "mine", "type": "container", "owner": "ada", "tags": ["a", "b"]}


def test_what_is_sent_is_signed_so_that_its_receiver_can_tell(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    secret = hook(client, receiver).secret
    completed(orchestrator)
    until(lambda: receiver.requests, "it is told")
    request = receiver.requests[0]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message_id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    signed = f"{message_id}.{timestamp}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.headers["Content-Type"] == "application/json"


def test_the_secret_is_told_once_and_is_in_no_database(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    made = hook(client, receiver)
    assert all("secret" not in item.model_dump() for item in client.webhooks())
    folder = orchestrator.settings.webhook_secrets
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    key = made.secret.removeprefix("whsec_").encode()
    for path in orchestrator.settings.home.glob("saeforge.db*"):
        assert key not in path.read_bytes()
    client.delete_webhook(made.id)
    assert list(folder.iterdir()) == []


def test_a_receiver_that_fails_is_told_again_with_the_same_id_until_it_takes_it(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    receiver.script.answers = [Answer(500), HANG_UP, Answer(302, headers={"Location": "/"}), Answer(204, body=b"")]
    made = hook(client, receiver, events=["job_created"])
    completed(orchestrator)
    until(lambda: client.webhooks()[0].cursor > made.cursor, "it is delivered")
    ids = {request.headers["webhook-id"] for request in receiver.requests}
    bodies = {request.body for request in receiver.requests}
    assert (len(receiver.requests), len(ids), len(bodies)) == (4, 1, 1)
    tries = client.webhook_deliveries(made.id)
    assert [(item.number, item.status_code) for item in reversed(tries)] == [(1, 500), (2, None), (3, 302), (4, 204)]
    assert "redirects are not followed" in (tries[1].error or "")
    assert client.webhooks()[0].tries == 0


def test_after_too_many_failures_it_is_disabled_for_all_to_see_and_goes_on_where_it_stopped(
    home: Path, engine: FakeEngine, receiver: Receiver
) -> None:
    orchestrator = Orchestrator.start(home, engine, **SETTINGS, webhook_max_tries=3)
    try:
        client = orchestrator.client
        receiver.script.answers = [Answer(503)]
        made = hook(client, receiver)
        job_id = completed(orchestrator)
        until(lambda: client.webhooks()[0].disabled, "it is disabled")
        assert "3 tries in a row failed; the last: HTTP 503" in (client.webhooks()[0].disabled or "")
        assert len(receiver.requests) == 3
        receiver.script.answers = [Answer(204, body=b"")]
        client.enable_webhook(made.id)
        until(lambda: receiver.told[-1]["data"].get("to") == "completed", "it is told of all")
        assert receiver.statuses_of(job_id) == LIFE
    finally:
        orchestrator.stop()


def test_a_receiver_that_is_gone_for_good_is_told_nothing_more(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    receiver.script.answers = [Answer(410)]
    made = hook(client, receiver)
    completed(orchestrator)
    until(lambda: client.webhooks()[0].disabled, "it is disabled")
    assert len(receiver.requests) == 1
    receiver.script.answers = [Answer(204, body=b"")]
    client.enable_webhook(made.id, skip=True)
    later = completed(orchestrator)
    until(lambda: len(receiver.statuses_of(later)) == len(LIFE), "it is told of what comes")
    assert {body["job_id"] for body in receiver.told[1:]} == {later}


def test_what_happened_while_the_orchestrator_or_the_receiver_was_away_is_told_after_a_restart(
    home: Path, engine: FakeEngine
) -> None:
    script = Script(Answer(204, body=b""))
    with http_server(script) as url:
        receiver = Receiver(script, url)
        orchestrator = Orchestrator.start(home, engine, **SETTINGS, webhook_max_tries=1000)
        script.answers = [Answer(500)]
        hook(orchestrator.client, receiver)
        job_id = orchestrator.submit()
        orchestrator.reaches(job_id, "running")
        until(lambda: script.requests, "it was tried")
        orchestrator.stop()
        script.answers = [Answer(204, body=b"")]
        orchestrator = Orchestrator.start(home, engine, **SETTINGS)
        orchestrator.exit(job_id)
        orchestrator.reaches(job_id, "completed")
        until(lambda: len(receiver.statuses_of(job_id)) == len(LIFE), "it is told", lambda: receiver.told)
        assert receiver.statuses_of(job_id) == LIFE
        orchestrator.stop()


def test_it_is_told_what_it_asked_for_and_nothing_else(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    hook(client, receiver, events=["status_changed", "checkpoint:created"], statuses=["failed"], owner="ada", tag="x")
    for owner, tags, code in (("ada", ["x"], 0), ("bob", ["x"], 3), ("ada", [], 3)):
        job_id = orchestrator.submit(owner=owner, tags=tags)
        orchestrator.reaches(job_id, "running")
        orchestrator.exit(job_id, code)
        orchestrator.reaches(job_id, "failed" if code else "completed")
    wanted = orchestrator.train(owner="ada", tags=["x"])
    orchestrator.reaches(wanted, "running")
    orchestrator.report(
        wanted,
        Metrics(seq=1, ts=1, step=1, values={"loss": 1}),
        Progress(seq=2, ts=2, phase="training", done=1, total=2, unit="steps"),
        CheckpointSaved(seq=3, ts=3, name="step_1", step=1, size_bytes=1, digest="sha256:0", reason="interval"),
    )
    until(lambda: receiver.requests, "the checkpoint is told")
    orchestrator.exit(wanted, 3)
    orchestrator.reaches(wanted, "failed")
    until(lambda: len(receiver.requests) == 2, "the failure is told", lambda: receiver.told)
    assert [(body["type"], body["name"]) for body in receiver.told] == [
        ("checkpoint_saved", "checkpoint:created"),
        ("status_changed", "training:status_changed"),
    ]
    assert {body["job_id"] for body in receiver.told} == {wanted}


def test_a_slow_receiver_keeps_no_other_one_waiting(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    with http_server(Script(Answer(500))) as failing:
        client.add_webhook(WebhookRequest(url=failing + "/"))
        hook(client, receiver)
        job_id = completed(orchestrator)
        until(lambda: len(receiver.statuses_of(job_id)) == len(LIFE), "the other one is told")


def test_a_ping_says_at_once_whether_it_arrives(client: Client, receiver: Receiver) -> None:
    made = hook(client, receiver)
    good = client.ping_webhook(made.id)
    assert (good.status_code, good.error) == (204, None)
    assert receiver.told[0]["type"] == "ping"
    receiver.script.answers = [Answer(404)]
    assert client.ping_webhook(made.id).error == "HTTP 404"
    assert [item.type for item in client.webhook_deliveries(made.id)] == ["ping", "ping"]
    assert client.webhooks()[0].disabled is None


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.2:9/", "http://[::1]/", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "ftp://x/",
     "http://a:b@127.0.0.1/", "http://0x7f000002/"],
)  # fmt: skip
def test_what_only_this_machine_reaches_is_refused_when_the_webhook_is_made(client: Client, url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        client.add_webhook(WebhookRequest(url=url))
    assert refused.value.field == "url"
    assert client.webhooks() == []


def test_a_name_that_stands_for_another_address_by_then_is_refused_when_it_is_sent_to(
    home: Path, engine: FakeEngine, receiver: Receiver
) -> None:
    orchestrator = Orchestrator.start(home, engine, **SETTINGS)
    made = hook(orchestrator.client, receiver)
    orchestrator.stop()
    # The same as when the name's owner changes it: what was allowed at first is no longer.
    orchestrator = Orchestrator.start(home, engine, **SETTINGS | {"webhook_allow": ""})
    tried = orchestrator.client.ping_webhook(made.id)
    assert "not on the public internet" in (tried.error or "")
    assert receiver.requests == []
    orchestrator.stop()


@pytest.mark.parametrize("event", ["metrics", "training:progress", "no_such_event", "training:nonsense"])
def test_an_event_that_no_webhook_is_told_of_is_refused_by_name(client: Client, receiver: Receiver, event: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        hook(client, receiver, events=[event])
    assert event in refused.value.message


def test_after_its_secret_is_gone_nothing_goes_out_unsigned(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    made = hook(client, receiver)
    for file in orchestrator.settings.webhook_secrets.iterdir():
        file.unlink()
    assert "secret is gone" in (client.ping_webhook(made.id).error or "")
    assert receiver.requests == []


def test_what_is_not_there_is_not_found(client: Client) -> None:
    for call in (client.delete_webhook, client.ping_webhook, client.enable_webhook, client.webhook_deliveries):
        with pytest.raises(NotFound):
            call(UUID(int=7))


def test_a_hundred_jobs_at_once_are_each_told_in_order(
    orchestrator: Orchestrator, client: Client, receiver: Receiver
) -> None:
    hook(client, receiver)
    jobs = [orchestrator.submit(resources=None) for _ in range(60)]
    for job_id in jobs:
        orchestrator.reaches(job_id, "running")
        orchestrator.exit(job_id)
    for job_id in jobs:
        until(lambda job_id=job_id: len(receiver.statuses_of(job_id)) == len(LIFE), "it is told")  # type: ignore[misc]
        assert receiver.statuses_of(job_id) == LIFE
    ids = [body["id"] for body in receiver.told]
    assert ids == sorted(ids)
    assert client.jobs(status=JobStatus.COMPLETED).total == 60
