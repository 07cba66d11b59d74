import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from orchestrator.confined import leads_astray, open_beneath, open_for_append
from worker_image.contract.jobs import ContainerParams
from worker_image.contract.rundir import RunDir, RunSpec


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return True
    return False


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no job may read, in a directory beside the job's own."""
    file = tmp_path / "elsewhere" / "secret"
    file.parent.mkdir()
    file.write_text("secret")
    return file


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    (folder / "artifacts" / "inner").mkdir(parents=True)
    (folder / "artifacts" / "inner" / "file").write_text("kept")
    return folder


def test_a_file_below_is_opened(own: Path) -> None:
    descriptor = open_beneath(own, "artifacts/inner/file")
    with open(descriptor) as file:
        assert file.read() == "kept"


@pytest.mark.parametrize("relative", ["../elsewhere/secret", "/etc/passwd", "", ".", "artifacts", "artifacts/none"])
def test_what_is_no_plain_file_below_is_not(own: Path, secret: Path, relative: str) -> None:
    assert refused(partial(open_beneath, own, relative))


def test_a_link_in_place_of_the_file_is_not_followed(own: Path, secret: Path) -> None:
    (own / "artifacts" / "link").symlink_to(secret)
    assert refused(partial(open_beneath, own, "artifacts/link"))


def test_a_link_in_place_of_a_folder_on_the_way_is_not_followed(own: Path, secret: Path) -> None:
    (own / "artifacts" / "folder").symlink_to(secret.parent)
    assert refused(partial(open_beneath, own, "artifacts/folder/secret"))
    (own / "artifacts").rename(own / "before")
    (own / "artifacts").symlink_to(secret.parent)
    assert refused(partial(open_beneath, own, "artifacts/secret"))


def test_a_pipe_in_place_of_the_file_is_not_waited_for(own: Path) -> None:
    os.mkfifo(own / "artifacts" / "pipe")
    assert refused(partial(open_beneath, own, "artifacts/pipe"))
    assert refused(partial(open_for_append, own / "artifacts" / "pipe"))


def test_nothing_is_appended_through_a_link(own: Path, secret: Path) -> None:
    (own / "commands").symlink_to(secret)
    assert refused(partial(open_for_append, own / "commands"))
    with open(open_for_append(own / "artifacts" / "inner" / "file"), "ab") as file:
        file.write(b" on")
    assert (own / "artifacts" / "inner" / "file").read_text() == "kept on"


def test_refusing_leaves_no_descriptor_open(own: Path, secret: Path) -> None:
    (own / "artifacts" / "link").symlink_to(secret)
    before = len(os.listdir("/proc/self/fd"))
    for relative in ("artifacts/link", "artifacts/inner", "artifacts/inner/none"):
        assert refused(partial(open_beneath, own, relative))
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_input_that_now_leads_elsewhere_is_noticed(tmp_path: Path, secret: Path) -> None:
    root = tmp_path / "models"
    model = root / "tiny"
    model.mkdir(parents=True)
    assert not leads_astray(model, [root])
    assert leads_astray(secret, [root])
    model.rmdir()
    model.symlink_to(secret.parent)
    assert leads_astray(model, [root])


def test_a_root_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    for path in (tmp_path / "home" / "models" / "tiny", tmp_path / "disk" / "models" / "tiny"):
        assert not leads_astray(path, [tmp_path / "home" / "models"])


@pytest.mark.parametrize("name", ["step_1", "../x", "..", "", "/etc", "a/b"])
def test_a_checkpoint_is_a_directory_that_is_no_link_at_all(tmp_path: Path, name: str) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.checkpoints.mkdir(parents=True)
    outside = tmp_path / "outside"
    (outside / "step_1").mkdir(parents=True)
    assert run_dir.checkpoint(name) is None
    (run_dir.checkpoints / "step_1").symlink_to(outside / "step_1")
    assert run_dir.checkpoint(name) is None
    (run_dir.checkpoints / "step_1").unlink()
    run_dir.checkpoints.rmdir()
    # The job owns the folder of its checkpoints as well.
    run_dir.checkpoints.symlink_to(outside)
    assert run_dir.checkpoint(name) is None


@pytest.mark.parametrize("planted", ["events.jsonl", "commands.jsonl", "log", "params.tmp"])
def test_laying_out_again_writes_through_no_link_that_a_job_planted(tmp_path: Path, planted: str) -> None:
    run_dir = RunDir(tmp_path / "run")
    params = ContainerParams(image="busybox", command=["true"])
    spec = RunSpec(job_id="00000000-0000-0000-0000-000000000000", attempt=1, name="x", params=params)  # type: ignore[arg-type]
    run_dir.create(spec)
    victim = tmp_path / "victim"
    (run_dir.path / planted).unlink(missing_ok=True)
    (run_dir.path / planted).symlink_to(victim)
    run_dir.params.unlink()
    assert refused(partial(run_dir.create, spec)) == (planted != "params.tmp")
    assert not victim.exists()
