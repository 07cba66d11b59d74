import hashlib
import threading
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from orchestrator.errors import ImageMissing, InvalidInput, NotFound, StateConflict
from orchestrator.supervisor import Supervisor
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.commands import command
from worker_image.contract.events import (
    ArtifactSaved,
    CheckpointSaved,
    CommandApplied,
    Failure,
    Finished,
    Metrics,
    Progress,
)
from worker_image.contract.rundir import RunDir


def get(orchestrator: Orchestrator, path: str, **kwargs: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {orchestrator.key}"}
    return requests.get(orchestrator.url + path, headers=headers, timeout=10, **kwargs)


def post(orchestrator: Orchestrator, path: str, body: object, **headers: str) -> requests.Response:
    return requests.post(
        orchestrator.url + path, json=body, headers={"X-API-Key": orchestrator.key, **headers}, timeout=10
    )


def test_a_job_runs_from_submit_to_completed(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit(name="first", owner="ada", tags=["x"])
    orchestrator.reaches(job_id, "running")
    orchestrator.exit(job_id, 0)
    orchestrator.reaches(job_id, "completed")
    job = orchestrator.client.job(job_id)
    assert (job.name, job.owner, job.tags, job.attempts) == ("first", "ada", ["x"], 1)
    assert job.started_at is not None
    assert job.completed_at is not None
    assert job.attempt_list[0].exit_code == 0
    until(lambda: not orchestrator.engine.runs, "the container is removed")


def test_the_type_may_stand_in_the_path_in_kebab_case(orchestrator: Orchestrator) -> None:
    orchestrator.train()
    answer = post(orchestrator, "/api/jobs/train-sae", {"params": {"model": "tiny", "dataset": "text"}})
    assert answer.status_code == 201
    assert answer.json()["type"] == "train_sae"


def test_a_repeated_submit_with_one_key_makes_one_job(orchestrator: Orchestrator) -> None:
    body = {"type": "container", "params": {"image": "busybox", "command": ["run"]}}
    first, second = (post(orchestrator, "/api/jobs", body, **{"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    other = post(orchestrator, "/api/jobs", {**body, "name": "other"}, **{"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "field", "hint"),
    [
        ({"type": "train_saes"}, "type", "train_sae"),
        ({"type": "container", "params": {"imag": "x", "command": ["y"]}}, "params.imag", "image"),
        ({"type": "container", "params": {"image": "x"}}, "params.command", None),
        ({"type": "container", "params": {"image": "x", "command": []}}, "params.command", None),
        ({"type": "container", "params": {"image": "x", "command": ["y"], "env": {"1": "z"}}}, "params.env", None),
        ({"type": "train_sae", "params": {"model": "nope", "dataset": "text"}}, "params.model", "tiny"),
        ({"type": "train_sae", "params": {"model": "../..", "dataset": "text"}}, "params.model", "SAEFORGE_ALLOWED"),
        ({"type": "train_sae", "params": {"model": "/etc", "dataset": "text"}}, "params.model", "SAEFORGE_ALLOWED"),
        ({"type": "train_sae", "params": {"model": "x" * 300, "dataset": "text"}}, "params.model", "tiny"),
        ({"type": "train_sae", "params": {"model": "tiny", "dataset": "texts"}}, "params.dataset", "text"),
        ({"type": "train_sae", "params": {"model": "tiny", "dataset": "empty"}}, "params.dataset", None),
        ({"type": "train_sae", "params": {"model": "tiny", "dataset": "text", "k": 0}}, "params.k", None),
        ({"type": "train_sae", "params": {"model": "tiny", "dataset": "text", "k": 65}}, "params.k", "expansion"),
        (
            {"type": "train_sae", "params": {"model": "tiny", "dataset": "text", "hookpoint": "layers.2"}},
            "params.hookpoint",
            "layers.1",
        ),
        (
            {
                "type": "harvest_activations",
                "params": {"model": "tiny", "dataset": "text", "hookpoints": ["layers.2.mlp:in"]},
            },
            "params.hookpoints",
            "layers.1",
        ),
        ({"type": "container", "colour": "red"}, "colour", None),
        ({"type": "container", "resources": {"gpus": -1}}, "resources.gpus", None),
        ([], "body", None),
    ],
)
def test_bad_input_names_the_field_and_what_to_do(
    orchestrator: Orchestrator, body: object, field: str, hint: str | None
) -> None:
    orchestrator.client.cancel(orchestrator.train())
    (orchestrator.settings.datasets / "empty.txt").touch()
    answer = post(orchestrator, "/api/jobs", body)
    error = answer.json()
    assert answer.status_code == 400, error
    assert set(error) == {"code", "message", "details", "timestamp"}
    assert error["details"]["field"] == field
    assert hint is None or hint in error["details"]["suggestion"]


def test_a_link_out_of_the_allowed_roots_is_refused(orchestrator: Orchestrator) -> None:
    orchestrator.train()
    (orchestrator.settings.datasets / "leak.txt").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="outside"):
        orchestrator.client.submit("train_sae", {"model": "tiny", "dataset": "leak"})


def test_an_id_that_is_no_uuid_is_bad_input_and_an_unknown_one_is_not_found(orchestrator: Orchestrator) -> None:
    assert get(orchestrator, "/api/jobs/seven").status_code == 400
    with pytest.raises(NotFound):
        orchestrator.client.job(str(uuid4()))


def test_a_body_that_is_too_large_is_refused(orchestrator: Orchestrator) -> None:
    answer = post(orchestrator, "/api/jobs", {"type": "container", "name": "x" * 2_000_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_body_that_grows_too_large_without_saying_so_is_refused(orchestrator: Orchestrator) -> None:
    pieces = (b"x" * 65_536 for _ in range(17))
    answer = requests.post(
        f"{orchestrator.client.url}/api/jobs",
        data=pieces,
        headers={"X-API-Key": str(orchestrator.client.api_key), "Content-Type": "application/json"},
        timeout=10,
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_lists_are_filtered_counted_and_paged(orchestrator: Orchestrator) -> None:
    ids = [orchestrator.submit(owner="ada" if number % 2 else "bob") for number in range(4)]
    page = orchestrator.client.jobs(owner="ada", limit=1)
    assert page.total == 2
    assert [str(job.id) for job in page.items] == [ids[3]]


def test_a_waiting_job_says_why_and_where_it_stands(orchestrator: Orchestrator) -> None:
    first = orchestrator.submit(resources={"cpus": 4})
    orchestrator.reaches(first, "running")
    second = orchestrator.submit(resources={"cpus": 4})

    def told() -> tuple[str, int]:
        wait = orchestrator.client.job(second).wait
        assert wait is not None
        return wait.reason, wait.position

    assert told() in {("next_in_line", 1), ("cpu_busy", 1)}
    until(lambda: told() == ("cpu_busy", 1), "the wait is explained")
    orchestrator.exit(first)
    orchestrator.reaches(second, "running")


def test_a_missing_image_fails_the_job_with_advice(orchestrator: Orchestrator) -> None:
    orchestrator.engine.missing_images.add("nope")
    job_id = orchestrator.submit(params={"image": "nope", "command": ["run"]})
    orchestrator.reaches(job_id, "failed")
    failure = orchestrator.client.job(job_id).failure
    assert failure is not None
    assert (failure.reason, failure.field) == (ImageMissing.code, "params.image")
    assert failure.suggestion


def test_a_run_directory_that_cannot_be_made_fails_the_job_with_advice(orchestrator: Orchestrator) -> None:
    (orchestrator.settings.home / "runs").rmdir()
    (orchestrator.settings.home / "runs").touch()
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "failed")
    failure = orchestrator.client.job(job_id).failure
    assert failure is not None
    assert failure.reason == "launch_failed"
    assert "free space" in (failure.suggestion or "")


def test_a_refused_start_fails_the_job_in_the_engines_words(orchestrator: Orchestrator) -> None:
    orchestrator.engine.refusal = "no such runtime"
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "failed")
    failure = orchestrator.client.job(job_id).failure
    assert failure is not None
    assert failure.reason == "launch_failed"
    assert "no such runtime" in failure.message
    until(lambda: not orchestrator.engine.runs, "what was created is removed")


def test_the_workers_own_failure_is_told(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    failure = Failure(code="user_error", message="no text", field="dataset", suggestion="name another")
    orchestrator.report(job_id, Finished(seq=1, ts=1, outcome="failed", failure=failure))
    orchestrator.exit(job_id, 2)
    orchestrator.reaches(job_id, "failed")
    told = orchestrator.client.job(job_id).failure
    assert told is not None
    assert (told.reason, told.field, told.suggestion) == ("user_error", "params.dataset", "name another")


def test_running_out_of_memory_is_told_apart(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit(resources={"memory_mb": 64})
    orchestrator.reaches(job_id, "running")
    orchestrator._loop.call_soon_threadsafe(orchestrator.run_of(job_id).run_out_of_memory)
    orchestrator.reaches(job_id, "failed")
    failure = orchestrator.client.job(job_id).failure
    assert failure is not None
    assert (failure.reason, failure.field) == ("host_oom", "resources.memory_mb")


def test_a_job_that_runs_too_long_is_ended(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit(resources={"timeout_s": 0.1})
    orchestrator.reaches(job_id, "failed")
    failure = orchestrator.client.job(job_id).failure
    assert failure is not None
    assert failure.reason == "timeout"


def test_a_queued_job_is_cancelled_at_once(orchestrator: Orchestrator) -> None:
    orchestrator.reaches(orchestrator.submit(resources={"cpus": 4}), "running")
    waiting = orchestrator.submit()
    assert orchestrator.client.cancel(waiting).status == "cancelled"
    assert orchestrator.client.cancel(waiting).status == "cancelled"
    assert orchestrator.engine.named(f"saeforge-{waiting}-1") is None


def test_a_running_job_is_killed_on_cancel_and_its_container_removed(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")
    until(lambda: not orchestrator.engine.runs, "the container is removed")


def test_a_container_created_but_not_started_is_cancelled(orchestrator: Orchestrator) -> None:
    orchestrator.engine.starts_by_itself = False
    job_id = orchestrator.submit()
    orchestrator.run_of(job_id)
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")
    until(lambda: not orchestrator.engine.runs, "the container is removed")


def test_cancelling_an_ended_job_is_a_conflict(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    with pytest.raises(StateConflict) as refused:
        orchestrator.client.cancel(job_id)
    assert "restart" in (refused.value.suggestion or "")


def test_pause_is_requested_then_applied_and_resume_continues_from_the_checkpoint(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    assert orchestrator.client.pause(job_id).status == "pausing"
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    (run_dir.checkpoints / "step_7").mkdir()
    until(lambda: run_dir.commands.read_bytes(), "the command is delivered")
    told = command.validate_json(run_dir.commands.read_bytes())
    assert told.type == "pause"
    assert [item.status for item in orchestrator.client.job(job_id).commands] == ["requested"]
    checkpoint = CheckpointSaved(seq=2, ts=1, name="step_7", step=7, size_bytes=1, digest="sha256:0", reason="pause")
    orchestrator.report(
        job_id,
        CommandApplied(seq=1, ts=1, command_id=told.id),
        checkpoint,
        Finished(seq=3, ts=1, outcome="paused"),
    )
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "paused")
    assert [item.status for item in orchestrator.client.job(job_id).commands] == ["applied"]
    until(lambda: not orchestrator.engine.runs, "nothing is held while paused")
    orchestrator.client.resume(job_id)
    orchestrator.reaches(job_id, "running")
    spec = RunDir(orchestrator.run_of(job_id, 2).spec.run_dir).spec()
    assert spec.resume_from == str(run_dir.checkpoints / "step_7")


def test_a_command_is_delivered_once(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    for _ in range(3):
        orchestrator.client.checkpoint(job_id)
    path = RunDir(orchestrator.run_of(job_id).spec.run_dir).commands
    until(lambda: len(path.read_bytes().splitlines()) == 3, "all three are delivered")
    orchestrator.client.set_learning_rate(job_id, 1e-3)
    until(lambda: len(path.read_bytes().splitlines()) == 4, "the fourth is delivered")
    ids = [command.validate_json(line).id for line in path.read_bytes().splitlines()]
    assert len(set(ids)) == 4


def test_a_worker_that_ignores_stop_is_ended_after_the_grace(home, engine) -> None:  # type: ignore[no-untyped-def]
    orchestrator = Orchestrator.start(home, engine, cpus=4, grace_s=0.1)
    try:
        job_id = orchestrator.train()
        orchestrator.reaches(job_id, "running")
        orchestrator.client.stop(job_id)
        orchestrator.reaches(job_id, "stopped")
    finally:
        orchestrator.stop()


def test_a_plain_container_is_stopped_by_sigterm_and_cannot_be_paused(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    with pytest.raises(StateConflict, match="cannot continue"):
        orchestrator.client.pause(job_id)
    orchestrator.client.stop(job_id)
    orchestrator.reaches(job_id, "stopped")
    assert orchestrator.client.job(job_id).attempt_list[0].exit_code == 143


def test_restart_makes_a_new_job_that_continues(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train(tags=["keep"])
    checkpoint = CheckpointSaved(seq=1, ts=1, name="step_7", step=7, size_bytes=1, digest="sha256:0", reason="interval")
    orchestrator.report(job_id, checkpoint)
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    (run_dir.checkpoints / "step_7").mkdir()
    orchestrator.exit(job_id, 1)
    orchestrator.reaches(job_id, "failed")
    again = orchestrator.client.restart(job_id)
    assert str(again.restarted_from) == job_id
    assert again.tags == ["keep"]
    spec = RunDir(orchestrator.run_of(str(again.id)).spec.run_dir).spec()
    assert spec.resume_from == str(run_dir.checkpoints / "step_7")
    assert orchestrator.status(job_id) == "failed"


def test_purge_deletes_the_files_too(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    until(lambda: not orchestrator.engine.runs, "the container is removed")
    orchestrator.client.purge(job_id)
    assert not (orchestrator.settings.runs / job_id).exists()
    with pytest.raises(NotFound):
        orchestrator.client.job(job_id)


def test_metrics_progress_and_artifacts_come_through(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    folder = RunDir(orchestrator.run_of(job_id).spec.run_dir).artifacts
    (folder / "sae.safetensors").write_bytes(b"weights")
    orchestrator.report(
        job_id,
        *(Metrics(seq=n, ts=n, step=n * 10, values={"loss": 1 / n}) for n in range(1, 6)),
        Progress(seq=6, ts=6, phase="training", done=50, total=100, unit="steps", eta_s=3),
        ArtifactSaved(seq=7, ts=7, path="sae.safetensors", kind="sae", size_bytes=7, digest="sha256:0"),
    )
    until(lambda: orchestrator.client.artifacts(job_id), "the artifact is known")
    series = orchestrator.client.metrics(job_id, start_step=20, interval=20)
    assert [point.step for point in series.items] == [20, 40]
    assert orchestrator.client.job(job_id).phase == "training"
    (artifact,) = orchestrator.client.artifacts(job_id)
    assert get(orchestrator, artifact.url).content == b"weights"
    assert [item.path for item in orchestrator.client.inventory().saes] == ["sae.safetensors"]


def test_a_pull_that_was_begun_is_continued_by_range(orchestrator: Orchestrator, tmp_path: Path) -> None:
    job_id = orchestrator.train()
    folder = RunDir(orchestrator.run_of(job_id).spec.run_dir).artifacts
    (folder / "sae.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    saved = ArtifactSaved(seq=1, ts=1, path="sae.safetensors", kind="sae", size_bytes=7, digest=f"sha256:{digest}")
    orchestrator.report(job_id, saved)
    until(lambda: orchestrator.client.artifacts(job_id), "the artifact is known")
    (tmp_path / f"sae.safetensors.{digest[:12]}.part").write_bytes(b"weig")
    seen: list[int] = []
    orchestrator.client.pull(job_id, tmp_path, told=lambda path, there, size: seen.append(there))
    assert (tmp_path / "sae.safetensors").read_bytes() == b"weights"
    assert seen == [7]


@pytest.mark.parametrize("path", ["../params.json", "../../../../saeforge.db", "link", "%2e%2e/params.json"])
def test_an_artifact_path_never_leads_out(orchestrator: Orchestrator, path: str) -> None:
    job_id = orchestrator.train()
    folder = RunDir(orchestrator.run_of(job_id).spec.run_dir).artifacts
    (folder / "link").symlink_to("/etc/passwd")
    orchestrator.report(
        job_id,
        ArtifactSaved(seq=1, ts=1, path="link", kind="file", size_bytes=1, digest="sha256:0"),
    )
    until(lambda: orchestrator.client.artifacts(job_id), "the artifact is known")
    assert get(orchestrator, f"/api/jobs/{job_id}/artifacts/{path}").status_code in (400, 404)


def test_lines_that_are_no_events_are_passed_over(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    path = RunDir(orchestrator.run_of(job_id).spec.run_dir).events
    path.write_bytes(b'not json\n{"type": "unheard_of", "seq": 1}\n')
    orchestrator.report(job_id, Metrics(seq=2, ts=1, step=1, values={"loss": 1.0}))
    until(lambda: orchestrator.client.metrics(job_id).items, "the event after them is stored")


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "metrics", "seq": 10000000000000000000000, "ts": 1, "step": 1, "values": {}}',
        '{"type": "metrics", "seq": 1, "ts": NaN, "step": 1, "values": {}}',
        '{"type": "metrics", "seq": 1, "ts": 1e300, "step": 1, "values": {}}',
        '{"type": "metrics", "seq": 1, "ts": 1, "step": 1, "values": {"loss": Infinity}}',
        '{"type": "artifact_saved", "seq": 1, "ts": 1, "path": "../x", "kind": "file", "size_bytes": 1, "digest": ""}',
        '{"type": "checkpoint_removed", "seq": 1, "ts": 1, "name": "../../x"}',
    ],
)
def test_an_event_out_of_bounds_is_passed_over_and_the_job_can_be_cancelled(
    orchestrator: Orchestrator, line: str
) -> None:
    job_id = orchestrator.train()
    RunDir(orchestrator.run_of(job_id).spec.run_dir).events.write_text(line + "\n")
    orchestrator.report(job_id, Metrics(seq=2, ts=1, step=7, values={"loss": 1.0}))
    until(lambda: orchestrator.client.metrics(job_id).items, "the event after it is stored")
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")


def test_a_job_that_cannot_be_looked_after_can_still_be_cancelled(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Supervisor, "_watch", broken)
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")
    until(lambda: not orchestrator.engine.runs, "the container is removed")


def test_a_checkpoint_that_is_a_link_is_never_continued_from(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    (run_dir.checkpoints / "step_7").symlink_to("/etc")
    checkpoint = CheckpointSaved(seq=1, ts=1, name="step_7", step=7, size_bytes=1, digest="sha256:0", reason="interval")
    orchestrator.report(job_id, checkpoint)
    orchestrator.exit(job_id, 1)
    orchestrator.reaches(job_id, "failed")
    again = orchestrator.client.restart(job_id)
    assert RunDir(orchestrator.run_of(str(again.id)).spec.run_dir).spec().resume_from is None


def test_a_repeated_submit_is_answered_though_its_dataset_is_gone(orchestrator: Orchestrator) -> None:
    orchestrator.client.cancel(orchestrator.train())
    body = {"type": "train_sae", "params": {"model": "tiny", "dataset": "text"}}
    first = post(orchestrator, "/api/jobs", body, **{"Idempotency-Key": "once"})
    (orchestrator.settings.datasets / "text.txt").unlink()
    second = post(orchestrator, "/api/jobs", body, **{"Idempotency-Key": "once"})
    assert (second.status_code, second.json()["id"]) == (201, first.json()["id"])


def test_a_pause_that_overruns_its_grace_falls_back_to_the_newest_checkpoint(home, engine) -> None:  # type: ignore[no-untyped-def]
    orchestrator = Orchestrator.start(home, engine, cpus=4, grace_s=0.1)
    try:
        job_id = orchestrator.train()
        orchestrator.reaches(job_id, "running")
        run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
        (run_dir.checkpoints / "step_7").mkdir()
        saved = CheckpointSaved(seq=1, ts=1, name="step_7", step=7, size_bytes=1, digest="sha256:0", reason="interval")
        orchestrator.report(job_id, saved)
        until(lambda: orchestrator.client.checkpoints(job_id), "the checkpoint is known")
        orchestrator.client.pause(job_id)
        orchestrator.reaches(job_id, "paused")
    finally:
        orchestrator.stop()


def test_many_submits_at_once_all_get_in(orchestrator: Orchestrator) -> None:
    threads = [threading.Thread(target=orchestrator.submit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert orchestrator.client.jobs().total == 20


def test_every_job_is_listed_once_page_after_page_and_sorted_as_asked(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.client.PAGE_JOBS", 2)
    ids = [orchestrator.submit(name=name) for name in ("b", "c", "a", "d")]
    assert [str(job.id) for job in orchestrator.client.each_job()] == ids[::-1]
    assert [job.name for job in orchestrator.client.jobs(sort="-name").items] == ["d", "c", "b", "a"]
    with pytest.raises(InvalidInput, match="sort"):
        orchestrator.client.jobs(sort="colour")
    with pytest.raises(InvalidInput, match="cursor"):
        orchestrator.client.jobs(cursor="none")


def test_a_query_parameter_that_a_route_does_not_take_is_refused_with_the_one_that_was_meant(
    orchestrator: Orchestrator,
) -> None:
    answer = get(orchestrator, "/api/jobs?statuss=running")
    details = answer.json()["details"]
    assert (answer.status_code, details["field"]) == (400, "statuss")
    assert details["suggestion"] == "did you mean status?"


def test_a_route_without_query_parameters_says_that_it_takes_none(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    answer = get(orchestrator, f"/api/jobs/{job_id}?verbose=true")
    assert (answer.status_code, answer.json()["details"]["suggestion"]) == (400, "it takes none; leave it out")


@pytest.mark.parametrize("path", ["/api/jobs?limit=0", "/api/jobs?status=asleep", "/api/jobs/seven", "/api/nowhere"])
def test_what_is_refused_says_what_to_do(orchestrator: Orchestrator, path: str) -> None:
    assert get(orchestrator, path).json()["details"]["suggestion"]


def test_a_method_that_a_path_does_not_know_is_refused_with_those_it_does(orchestrator: Orchestrator) -> None:
    answer = requests.put(f"{orchestrator.url}/api/jobs", headers={"X-API-Key": orchestrator.key}, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"]
    assert "Allow" in answer.json()["details"]["suggestion"]
