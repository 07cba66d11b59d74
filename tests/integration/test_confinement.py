"""A job rearranges its run directory to have the orchestrator read or write elsewhere on its behalf."""

from pathlib import Path

import pytest
import requests

from orchestrator.errors import StateConflict
from orchestrator.executors.fake import FakeEngine
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import ArtifactSaved, CheckpointSaved, Event, Metrics
from worker_image.contract.rundir import RunDir


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("of somebody else")
    return folder


def _run_dir(orchestrator: Orchestrator, job_id: str) -> RunDir:
    return RunDir(orchestrator.run_of(job_id).spec.run_dir)


def _get(orchestrator: Orchestrator, path: str) -> requests.Response:
    return requests.get(orchestrator.url + path, headers={"X-API-Key": orchestrator.key}, timeout=10)


def _replace(folder: Path, target: Path) -> None:
    folder.rename(folder.with_name("before"))
    folder.symlink_to(target)


def _purged(orchestrator: Orchestrator, job_id: str) -> bool:
    try:
        orchestrator.client.purge(job_id)
    except StateConflict:
        # Its container is being removed.
        return False
    return True


def _saved(path: str) -> Event:
    return ArtifactSaved(seq=1, ts=1, path=path, kind="file", size_bytes=1, digest="sha256:0")


@pytest.mark.parametrize("path", ["secret", "inner/secret"])
def test_a_link_in_place_of_the_folder_of_artifacts_gives_nothing_away(
    orchestrator: Orchestrator, outside: Path, path: str
) -> None:
    job_id = orchestrator.train()
    run_dir = _run_dir(orchestrator, job_id)
    if path == "secret":
        _replace(run_dir.artifacts, outside)
    else:
        (run_dir.artifacts / "inner").symlink_to(outside)
    orchestrator.report(job_id, _saved(path))
    until(lambda: orchestrator.client.artifacts(job_id), "the artifact is known")
    assert _get(orchestrator, f"/api/jobs/{job_id}/artifacts/{path}").status_code == 404


def test_an_artifact_can_be_fetched_in_part(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    (_run_dir(orchestrator, job_id).artifacts / "kept").write_text("0123456789")
    orchestrator.report(job_id, _saved("kept"))
    until(lambda: orchestrator.client.artifacts(job_id), "the artifact is known")
    headers = {"X-API-Key": orchestrator.key, "Range": "bytes=2-4"}
    answer = requests.get(f"{orchestrator.url}/api/jobs/{job_id}/artifacts/kept", headers=headers, timeout=10)
    assert (answer.status_code, answer.text) == (206, "234")


def test_a_link_in_place_of_the_log_gives_nothing_away(orchestrator: Orchestrator, outside: Path) -> None:
    job_id = orchestrator.train()
    log = _run_dir(orchestrator, job_id).log
    log.unlink()
    log.symlink_to(outside / "secret")
    assert orchestrator.client.logs(job_id).data == ""
    assert _get(orchestrator, f"/api/jobs/{job_id}/logs?download=true").text == ""


def test_no_command_is_written_through_a_link(orchestrator: Orchestrator, outside: Path) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    commands = _run_dir(orchestrator, job_id).commands
    commands.unlink()
    commands.symlink_to(outside / "secret")
    orchestrator.client.checkpoint(job_id)
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")
    assert (outside / "secret").read_text() == "of somebody else"


def test_a_job_does_not_continue_from_a_checkpoint_that_is_a_link(
    orchestrator: Orchestrator, engine: FakeEngine, outside: Path
) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    (outside / "step_7").mkdir()
    _replace(_run_dir(orchestrator, job_id).checkpoints, outside)
    orchestrator.report(
        job_id,
        CheckpointSaved(seq=1, ts=1, name="step_7", step=7, size_bytes=1, digest="sha256:0", reason="interval"),
        Metrics(seq=2, ts=1, step=7, values={"loss": 1.0}),
    )
    until(lambda: orchestrator.client.metrics(job_id).items, "what came after it is stored")
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")
    again = str(orchestrator.client.restart(job_id).id)
    spec = orchestrator.run_of(again).spec
    assert not any("step_7" in str(path) for path in spec.read_only)


def test_an_input_that_became_a_link_since_it_was_submitted_is_not_mounted(
    orchestrator: Orchestrator, engine: FakeEngine, outside: Path
) -> None:
    engine.down = True
    job_id = orchestrator.train()
    _replace(orchestrator.settings.models / "tiny", outside)
    engine.down = False
    orchestrator.reaches(job_id, "failed")
    failure = orchestrator.client.job(job_id).failure
    assert failure is not None
    assert "link" in failure.message
    assert not engine.runs


def test_purging_follows_no_link(orchestrator: Orchestrator, outside: Path) -> None:
    job_id = orchestrator.submit()
    run_dir = _run_dir(orchestrator, job_id)
    (run_dir.artifacts / "folder").symlink_to(outside)
    _replace(run_dir.checkpoints, outside)
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    until(lambda: _purged(orchestrator, job_id), "it is purged")
    assert not run_dir.path.exists()
    assert (outside / "secret").read_text() == "of somebody else"
