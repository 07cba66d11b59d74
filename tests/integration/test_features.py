"""Autoencoders that jobs left: named by other jobs, and their features read by page."""

from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.errors import InvalidInput, NotFound
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract import feature_file
from worker_image.contract.events import ArtifactSaved, Finished
from worker_image.contract.feature_file import Example, FeatureBody, FeatureSummary, Group, Histogram
from worker_image.contract.rundir import RunDir


def left_by(orchestrator: Orchestrator, job_id: str) -> Path:
    return RunDir(orchestrator.run_of(job_id).spec.run_dir).artifacts


def saved(path: str, kind: str, seq: int = 1) -> ArtifactSaved:
    return ArtifactSaved.model_validate(
        {"seq": seq, "ts": 1, "path": path, "kind": kind, "size_bytes": 1, "digest": "sha256:0"}
    )


def trained(orchestrator: Orchestrator, *folders: str, **about: str) -> str:
    """A training that completed and left an autoencoder in each folder of its artifacts."""
    job_id = orchestrator.train(**about)
    for seq, folder in enumerate(folders, 1):
        path = f"{folder}/sae.safetensors".removeprefix("/")
        file = left_by(orchestrator, job_id) / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"weights")
        orchestrator.report(job_id, saved(path, "sae", seq))
    until(lambda: len(orchestrator.client.artifacts(job_id)) == len(folders), "the artifacts are known")
    orchestrator.report(job_id, Finished(seq=len(folders) + 1, ts=1, outcome="completed"))
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    return job_id


def evaluate(orchestrator: Orchestrator, sae: str, client: Client | None = None) -> str:
    params = {"sae": sae, "model": "tiny", "dataset": "text"}
    return str((client or orchestrator.client).submit("evaluate_sae", params).id)


def test_a_job_reads_what_a_training_left(orchestrator: Orchestrator) -> None:
    job_id = trained(orchestrator, "")
    reading = evaluate(orchestrator, f"job:{job_id}")
    folder = RunDir.of(orchestrator.settings.home, job_id, 1).artifacts
    assert folder in orchestrator.run_of(reading).spec.read_only
    assert [item.reference for item in orchestrator.client.artifacts(job_id)] == [f"job:{job_id}"]


@pytest.mark.parametrize("named", ["sae_1", "artifacts/sae_1"])
def test_one_of_several_is_named_by_its_folder(orchestrator: Orchestrator, named: str) -> None:
    job_id = trained(orchestrator, "sae_0", "sae_1")
    reading = evaluate(orchestrator, f"job:{job_id}/{named}")
    assert (
        RunDir.of(orchestrator.settings.home, job_id, 1).artifacts / "sae_1"
        in orchestrator.run_of(reading).spec.read_only
    )
    with pytest.raises(InvalidInput, match="holds no autoencoder") as caught:
        evaluate(orchestrator, f"job:{job_id}")
    assert f"job:{job_id}/sae_0" in (caught.value.suggestion or "")


@pytest.mark.parametrize("rest", ["/..", "/../../2/artifacts", "/sae_9", "/sae_0/.."])
def test_no_reference_leads_out_of_the_artifacts(orchestrator: Orchestrator, rest: str) -> None:
    job_id = trained(orchestrator, "sae_0")
    with pytest.raises(InvalidInput) as caught:
        evaluate(orchestrator, f"job:{job_id}{rest}")
    assert caught.value.field == "params.sae"


@pytest.mark.parametrize("sae", ["job:nonsense", "job:00000000-0000-0000-0000-000000000000", "job:"])
def test_a_reference_to_no_job_is_refused(orchestrator: Orchestrator, sae: str) -> None:
    trained(orchestrator, "")
    with pytest.raises(InvalidInput, match="names no job"):
        evaluate(orchestrator, sae)


def test_a_job_that_has_not_ended_is_refused(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    with pytest.raises(InvalidInput, match="has not ended"):
        evaluate(orchestrator, f"job:{job_id}")


def test_nobody_reads_what_another_owner_trained(orchestrator: Orchestrator) -> None:
    job_id = trained(orchestrator, "", owner="ada")
    key = orchestrator.client.create_key("bobs", role="write", owner="bob")
    bob = Client(orchestrator.url, key.key, timeout_s=10)
    with pytest.raises(InvalidInput, match="names no job"):
        evaluate(orchestrator, f"job:{job_id}", bob)


def test_a_folder_of_the_home_is_an_autoencoder_too(orchestrator: Orchestrator) -> None:
    trained(orchestrator, "")
    folder = orchestrator.settings.saes / "mine"
    folder.mkdir(parents=True)
    (folder / "sae_weights.safetensors").write_bytes(b"weights")
    assert folder in orchestrator.run_of(evaluate(orchestrator, "mine")).spec.read_only
    with pytest.raises(InvalidInput, match="there is no sae"):
        evaluate(orchestrator, "other")
    with pytest.raises(InvalidInput, match="outside"):
        evaluate(orchestrator, str(orchestrator.settings.runs))


def looked(orchestrator: Orchestrator, *, content: bytes | None = None) -> str:
    """A ``sae_features`` job that left a file of three latents, or one with this in it."""
    job_id = trained(orchestrator, "")
    params = {"sae": f"job:{job_id}", "model": "tiny", "dataset": "text"}
    looking = str(orchestrator.client.submit("sae_features", params).id)
    path = left_by(orchestrator, looking) / feature_file.NAME
    if content is None:
        group = Group(name="top", examples=[Example(tokens=[5, 6], acts=[0, 1.5], peak=1, sequence=0)])
        feature_file.write(
            path,
            [
                (
                    FeatureSummary(latent=latent, density=density, mean=1, max=1.5, peak="six"),
                    FeatureBody(firings=1, histogram=Histogram(width=0.1, counts=[1]), groups=[group]),
                )
                for latent, density in ((0, 0.1), (1, 0.3), (2, 0.2))
            ],
            {5: "five", 6: "six", 7: "seven"},
            {"tokens": 10},
        )
    else:
        path.write_bytes(content)
    orchestrator.report(looking, saved(feature_file.NAME, "file"))
    until(lambda: orchestrator.client.artifacts(looking), "the file is known")
    return looking


def test_features_are_read_by_page(orchestrator: Orchestrator) -> None:
    job_id = looked(orchestrator)
    page = orchestrator.client.features(job_id, sort="-density", limit=2)
    assert ([item.latent for item in page.items], page.total, page.about["tokens"]) == ([1, 2], 3, "10")
    rest = orchestrator.client.features(job_id, sort="-density", limit=2, offset=2)
    assert [item.latent for item in rest.items] == [0]


def test_one_feature_has_its_examples_and_the_texts_of_their_tokens(orchestrator: Orchestrator) -> None:
    found = orchestrator.client.feature(looked(orchestrator), 2)
    assert found.body.groups[0].examples[0].acts == [0, 1.5]
    assert found.texts == {5: "five", 6: "six"}


def test_a_latent_that_is_not_in_the_file_is_not_found(orchestrator: Orchestrator) -> None:
    with pytest.raises(NotFound, match="no latent 9"):
        orchestrator.client.feature(looked(orchestrator), 9)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 200, b"text"])
def test_a_damaged_file_is_told_as_such(orchestrator: Orchestrator, content: bytes) -> None:
    with pytest.raises(NotFound, match="cannot be read"):
        orchestrator.client.features(looked(orchestrator, content=content))


def test_a_link_in_its_place_is_not_followed(orchestrator: Orchestrator) -> None:
    job_id = looked(orchestrator)
    path = left_by(orchestrator, job_id) / feature_file.NAME
    path.rename(path.with_name("other.db"))
    path.symlink_to("other.db")
    with pytest.raises(NotFound, match="has no features"):
        orchestrator.client.features(job_id)


def test_other_jobs_have_no_features(orchestrator: Orchestrator) -> None:
    with pytest.raises(NotFound, match="has no features"):
        orchestrator.client.features(orchestrator.submit())
