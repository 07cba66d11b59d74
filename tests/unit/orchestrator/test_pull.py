"""Artifacts brought here, from small servers that answer by a script."""

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cli.console import ExitCode
from orchestrator.client import Client
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.pull import chosen
from orchestrator.streams import UnexpectedAnswer
from orchestrator.transport import Unreachable
from orchestrator.views import ArtifactView
from tests.scripted_api import JOB, NOW, Answer, Script, http_server

WHOLE = bytes(range(256)) * 768
"""Three of the blocks that a download is read in."""
BEGUN = 2 * len(WHOLE) // 3


def left(path: str = "sae/cfg.json", content: bytes = WHOLE, attempt: int = 1) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"attempt": attempt, "path": path, "kind": "sae", "size_bytes": len(content), "digest": digest,
            "created_at": NOW, "url": "x", "reference": None}  # fmt: skip


def cut(content: bytes, whole: int, status: int = 200) -> Answer:
    """An answer whose connection ends before all of it has come."""
    return Answer(status, content, {"Content-Length": str(whole), "Connection": "close"})


def pull(folder: Path, *answers: Answer, **options: object) -> Script:
    script = Script(*answers)
    with http_server(script) as url, Client(url, "secret", backoff_s=0.001, reconnect_for_s=0, retries=0) as client:
        client.pull(JOB, folder, **options)  # type: ignore[arg-type]
    return script


def test_an_artifact_lies_under_its_own_path_and_nothing_else_is_left(tmp_path: Path) -> None:
    script = pull(tmp_path, Answer(body=[left()]), Answer(body=WHOLE))
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()] == [Path("sae/cfg.json")]
    assert (tmp_path / "sae/cfg.json").read_bytes() == WHOLE
    assert script.requests[1].path == f"/api/jobs/{JOB}/artifacts/sae/cfg.json?attempt=1"


def test_a_connection_that_is_cut_is_taken_up_at_the_byte_where_it_was(tmp_path: Path) -> None:
    script = Script(Answer(body=[left()]), cut(WHOLE[:BEGUN], len(WHOLE)), Answer(206, WHOLE[BEGUN:]))
    with http_server(script) as url, Client(url, "secret", backoff_s=0.001) as client:
        client.pull(JOB, tmp_path)
    assert script.requests[2].headers["Range"] == f"bytes={BEGUN}-"
    assert (tmp_path / "sae/cfg.json").read_bytes() == WHOLE


def test_what_one_pull_began_the_next_one_continues(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        pull(tmp_path, Answer(body=[left()]), cut(WHOLE[:BEGUN], len(WHOLE)), Answer(503))
    assert not (tmp_path / "sae/cfg.json").exists()
    script = pull(tmp_path, Answer(body=[left()]), Answer(206, WHOLE[BEGUN:]))
    assert script.requests[1].headers["Range"] == f"bytes={BEGUN}-"
    assert (tmp_path / "sae/cfg.json").read_bytes() == WHOLE


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        pull(tmp_path, Answer(body=[left()]), cut(WHOLE[:BEGUN], len(WHOLE)), Answer(503))
    pull(tmp_path, Answer(body=[left()]), Answer(200, WHOLE))
    assert (tmp_path / "sae/cfg.json").read_bytes() == WHOLE


def test_what_was_begun_of_an_older_artifact_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        pull(tmp_path, Answer(body=[left()]), cut(WHOLE[:BEGUN], len(WHOLE)), Answer(503))
    script = pull(tmp_path, Answer(body=[left(content=b"newer")]), Answer(200, b"newer"))
    assert "Range" not in script.requests[1].headers
    assert (tmp_path / "sae/cfg.json").read_bytes() == b"newer"


def test_what_arrives_damaged_is_told_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"sae/cfg\.json"):
        pull(tmp_path, Answer(body=[left()]), Answer(200, WHOLE[::-1]))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_an_empty_artifact_is_an_empty_file(tmp_path: Path) -> None:
    pull(tmp_path, Answer(body=[left(content=b"")]), Answer(200, b""))
    assert (tmp_path / "sae/cfg.json").read_bytes() == b""


def test_another_file_in_its_place_is_kept_and_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    script = Script(Answer(body=[left("a"), left("b")]))
    with http_server(script) as url, Client(url, "secret") as client, pytest.raises(InvalidInput) as refused:
        client.pull(JOB, tmp_path)
    assert (refused.value.field, len(script.requests)) == ("force", 1)
    assert (tmp_path / "b").read_text() == "mine"


def test_another_file_is_overwritten_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    pull(tmp_path, Answer(body=[left("b")]), Answer(body=WHOLE), force=True)
    assert (tmp_path / "b").read_bytes() == WHOLE


def test_what_is_here_already_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(WHOLE)
    assert len(pull(tmp_path, Answer(body=[left("b")])).requests) == 1


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "sae/../../up", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnexpectedAnswer, match="no name"):
        pull(tmp_path / "here", Answer(body=[left(path)]), Answer(body=WHOLE))
    assert not list(tmp_path.iterdir())


def paths(names: list[str], *artifacts: dict[str, object]) -> list[tuple[str, int]]:
    views = [ArtifactView.model_validate(item) for item in artifacts]
    return [(item.path, item.attempt) for item in chosen(views, names)]


def test_of_one_name_the_newest_attempts_is_meant() -> None:
    assert paths([], left("a", attempt=2), left("a"), left("b")) == [("a", 2), ("b", 1)]


def test_a_folders_name_means_all_in_it() -> None:
    assert paths(["sae/"], left("sae/x"), left("sae_2/x"), left("metrics.json")) == [("sae/x", 1)]


def test_a_name_that_nothing_has_is_told_with_those_there_are() -> None:
    with pytest.raises(NotFound) as refused:
        paths(["c"], left("a"), left("b"))
    assert refused.value.suggestion == "there is: a, b"


def test_the_command_prints_what_lies_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = Script(Answer(body=[left("a")]), Answer(body=WHOLE))
    monkeypatch.setenv("SAEFORGE_API_KEY", "secret")
    with http_server(script) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        result = CliRunner().invoke(app, ["pull", str(JOB), "-o", str(tmp_path)])
    assert result.exit_code == ExitCode.OK
    assert result.stdout == f"{tmp_path}/a  197 kB\n"
