"""The command line against scripted answers."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.app import sole_owner
from orchestrator.cli import app, console
from orchestrator.cli.console import ExitCode
from orchestrator.cli.submission import parameters
from orchestrator.domain import Resources, RetryPolicy
from orchestrator.settings import Settings
from tests.scripted_api import JOB, Answer, Script, error_json, http_server, job_json
from worker_image import __version__
from worker_image.contract.jobs import JOB_TYPES, ContainerParams, TrainSaeParams

DOCS = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAEFORGE_HOME", str(tmp_path))
    monkeypatch.setenv("SAEFORGE_API_KEY", "secret")


def page(*jobs: dict[str, object]) -> Answer:
    return Answer(body={"items": jobs, "total": len(jobs)})


def run(
    monkeypatch: pytest.MonkeyPatch, words: Sequence[str], *answers: Answer, typed: str = ""
) -> tuple[Result, Script]:
    script = Script(*answers)
    with http_server(script) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        monkeypatch.setattr(console.out, "width", 200)
        return CliRunner().invoke(app, list(words), input=typed), script


def sent(script: Script) -> dict[str, object]:
    body: dict[str, object] = json.loads(script.requests[0].body)
    return body


def given(job_type: type, **values: object) -> dict[str, object]:
    """What typer hands over: every flag, the ones not given as None."""
    flags = dict.fromkeys([*job_type.model_fields, "params", "param"])  # type: ignore[attr-defined]
    return {**flags, **values}


# Exit codes and errors


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(400, error_json("invalid_input")), ExitCode.BAD_INPUT),
        (Answer(401, error_json("unauthenticated")), ExitCode.NOT_ALLOWED),
        (Answer(404, error_json("not_found")), ExitCode.NOT_FOUND),
        (Answer(409, error_json("state_conflict")), ExitCode.CONFLICT),
        (Answer(500, error_json("internal_error")), ExitCode.ORCHESTRATOR_ERROR),
        (Answer(200, b"<html>"), ExitCode.ORCHESTRATOR_ERROR),
    ],
)
def test_each_kind_of_error_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, answer: Answer, code: ExitCode) -> None:
    result, _ = run(monkeypatch, ["pause", str(JOB)], answer)
    assert result.exit_code == code


def test_nobody_answering_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_URL", "http://127.0.0.1:1")
    result = CliRunner().invoke(app, ["ls"])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "saeforge up" in result.stderr


def test_an_error_is_one_line_and_its_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Answer(400, error_json("invalid_input", "k: too big", field="k", suggestion="lower k"))
    result, _ = run(monkeypatch, ["submit", "train_sae", "--model", "m", "--dataset", "d"], refusal)
    assert result.stderr.splitlines() == ["error: k: too big", "  → lower k"]
    assert result.stdout == ""


def test_an_error_is_json_where_json_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Answer(400, error_json("invalid_input", "k: too big", field="k", suggestion="lower k"))
    result, _ = run(monkeypatch, ["show", str(JOB), "--json"], refusal)
    assert json.loads(result.stderr) == {
        "code": "invalid_input",
        "message": "k: too big",
        "details": {"field": "k", "suggestion": "lower k"},
    }


def test_a_refused_key_is_answered_with_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Answer(401, error_json("unauthenticated", suggestion="send the header 'Authorization: Bearer <key>'"))
    result, _ = run(monkeypatch, ["ls"], refusal)
    assert "SAEFORGE_API_KEY" in result.stderr
    assert "header" not in result.stderr


def test_a_key_that_cannot_be_sent_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_API_KEY", "ключ")
    result, script = run(monkeypatch, ["ls"], page())
    assert result.exit_code == ExitCode.NOT_ALLOWED
    assert result.stderr.splitlines()[0] == "error: the API key holds characters that no key has"
    assert script.requests == []


def test_a_job_that_is_not_there_is_answered_with_the_command_that_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Answer(404, error_json("not_found", field="id", suggestion="GET /api/jobs lists the jobs there are"))
    result, _ = run(monkeypatch, ["show", str(JOB)], refusal)
    assert "saeforge ls lists the jobs there are" in result.stderr


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"saeforge {__version__}\n"


def test_an_unknown_flag_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["submit", "train_sae", "--depth", "3"]).exit_code == ExitCode.BAD_INPUT


def test_a_bad_setting_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_PORT", "many")
    result = CliRunner().invoke(app, ["ls"])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "SAEFORGE_PORT" in result.stderr


# Naming a job


def test_the_start_of_an_id_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    other = job_json(id="99999999-2222-3333-4444-555555555555")
    result, script = run(monkeypatch, ["cancel", "1111"], page(job_json(), other), Answer(202, job_json("cancelled")))
    assert result.exit_code == 0
    assert script.requests[1].path == f"/api/jobs/{JOB}"


def test_a_start_that_fits_several_jobs_is_refused_with_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "11119999-2222-3333-4444-555555555555"
    result, _ = run(monkeypatch, ["cancel", "1111"], page(job_json(), job_json(id=other)))
    assert result.exit_code == ExitCode.BAD_INPUT
    assert str(JOB) in result.stderr
    assert other in result.stderr


def test_a_start_that_fits_no_job_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, ["show", "abc"], page(job_json()))
    assert result.exit_code == ExitCode.NOT_FOUND


def test_a_start_is_looked_for_on_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Answer(body={"items": [job_json(id="99999999-2222-3333-4444-555555555555")], "total": 2})
    second = Answer(body={"items": [job_json()], "total": 2})
    result, script = run(monkeypatch, ["cancel", "1"], first, second, Answer(202, job_json("cancelled")))
    assert result.exit_code == 0
    assert "offset=1" in script.requests[1].path


def test_what_cannot_be_an_id_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["show", "../health"], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT
    assert script.requests == []


# Submitting


def test_submit_prints_the_id_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--model", "m", "--dataset", "d", "--k", "16", "--lr", "0.001", "--optimizer", "adamw"]
    result, script = run(monkeypatch, ["submit", "train_sae", *flags], Answer(201, job_json()))
    assert result.stdout == f"{JOB}\n"
    assert sent(script)["params"] == {"model": "m", "dataset": "d", "k": 16, "lr": 0.001, "optimizer": "adamw"}


@pytest.mark.parametrize(("given", "meant"), [(str(JOB)[:6], f"job:{JOB}"), (f"{JOB}/sae_2", f"job:{JOB}/sae_2")])
def test_the_job_of_an_autoencoder_may_be_named_by_the_beginning_of_its_id(
    monkeypatch: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    looked_up = [] if str(JOB) in given else [page(job_json())]
    words = ["submit", "evaluate_sae", "--sae", f"job:{given}", "--model", "m", "--dataset", "d"]
    result, script = run(monkeypatch, words, *looked_up, Answer(201, job_json()))
    assert result.exit_code == 0
    assert json.loads(script.requests[-1].body)["params"]["sae"] == meant


def test_submit_passes_on_whose_job_it_is_and_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    owned = ["--name", "n", "--owner", "o", "--priority", "7", "--tag", "a", "--tag", "b"]
    needed = ["--gpus", "2", "--cpus", "1.5", "--memory-mb", "4096", "--timeout-s", "60"]
    words = ["submit", "train-sae", "--model", "m", "--dataset", "d", *owned, *needed]
    _, script = run(monkeypatch, words, Answer(201, job_json()))
    body = sent(script)
    assert (body["name"], body["owner"], body["priority"], body["tags"]) == ("n", "o", 7, ["a", "b"])
    assert Resources.model_validate(body["resources"]) == Resources(gpus=2, cpus=1.5, memory_mb=4096, timeout_s=60)


def test_what_becomes_of_a_job_that_fails_is_sent_along_and_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["submit", "container", "--image", "i", "--retries", "2", "--on-failure", "pause", "ls"]
    _, script = run(monkeypatch, words, Answer(201, job_json()))
    assert RetryPolicy.model_validate(sent(script)["retry"]) == RetryPolicy(max_retries=2, on_failure="pause")
    held = job_json() | {"retry": {"max_retries": 2}}
    _, script = run(monkeypatch, ["edit", str(JOB), "--on-failure", "pause"], Answer(200, held), Answer(200, held))
    changed = json.loads(script.requests[-1].body)["retry"]
    assert RetryPolicy.model_validate(changed) == RetryPolicy(max_retries=2, on_failure="pause")


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_learning_rate_that_was_asked_for_is_told_whether_or_not_anything_runs(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    outcome, _ = run(monkeypatch, ["set-lr", str(JOB), "3e-4"], Answer(202, job_json(status)))
    assert "was asked for a peak learning rate of 0.0003" in outcome.output
    assert status in outcome.output


def test_everything_after_two_dashes_is_the_containers_command(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["submit", "container", "--image", "i", "--env", "A=B=C", "--network", "--", "sh", "-c", "echo --image"]
    _, script = run(monkeypatch, words, Answer(201, job_json()))
    assert sent(script)["params"] == {
        "image": "i",
        "env": {"A": "B=C"},
        "network": True,
        "command": ["sh", "-c", "echo --image"],
    }


def test_the_flags_of_a_containers_program_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, script = run(monkeypatch, ["submit", "container", "--image", "i", "ls", "--json"], Answer(201, job_json()))
    assert sent(script)["params"] == {"image": "i", "command": ["ls", "--json"]}


def test_a_resource_out_of_range_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["submit", "container", "--image", "i", "--gpus", "-1", "ls"], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT
    assert script.requests == []


@pytest.mark.parametrize(("name", "text"), [("p.json", '{"k": 4, "model": "m"}'), ("p.yaml", "k: 4\nmodel: m\n")])
def test_parameters_come_from_a_file_too(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert parameters(TrainSaeParams, given(TrainSaeParams, params=file)) == {"k": 4, "model": "m"}


def test_a_flag_goes_before_a_pair_and_a_pair_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"k": 1, "seed": 1, "steps": 1}')
    flags = given(TrainSaeParams, params=file, param=["k=2", "seed=2"], k=3)
    assert parameters(TrainSaeParams, flags) == {"k": 3, "seed": 2, "steps": 1}


def test_a_pair_is_json_where_it_can_be() -> None:
    pairs = ["checkpoint_every_steps=null", "lr=1e-3", "model=all-MiniLM"]
    assert parameters(TrainSaeParams, given(TrainSaeParams, param=pairs)) == {
        "checkpoint_every_steps": None,
        "lr": 0.001,
        "model": "all-MiniLM",
    }


@pytest.mark.parametrize("content", ["[1]", "{", '{"type": "container"}'])
def test_a_file_of_something_else_is_wrong_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    result, script = run(monkeypatch, ["submit", "train_sae", "--params", str(tmp_path / "p.json")], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT
    assert script.requests == []


def test_a_file_that_is_not_there_is_wrong_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, _ = run(monkeypatch, ["submit", "train_sae", "--params", str(tmp_path / "none.yaml")], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT


@pytest.mark.parametrize("name", JOB_TYPES)
def test_every_parameter_of_every_job_type_is_in_its_help(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    shown = CliRunner().invoke(app, ["submit", name, "--help"]).stdout
    for field in JOB_TYPES[name].model_fields:
        assert field == "type" or f"--{field.replace('_', '-')}" in shown or field.upper() in shown


@pytest.mark.parametrize("job_type", JOB_TYPES.values())
def test_no_parameter_takes_the_name_of_a_flag_that_every_job_has(job_type: type[ContainerParams]) -> None:
    common = {"params", "param", "name", "owner", "priority", "tag", "follow", "json", *Resources.model_fields}
    assert not common & set(job_type.model_fields)


# Looking and acting


def test_ls_passes_its_filters_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--status", "running", "--type", "train_sae", "--owner", "o", "--tag", "t", "-q", "text"]
    _, script = run(monkeypatch, ["ls", *words, "--limit", "5", "--offset", "2", "--sort=-name"], page())
    expected = "/api/jobs?status=running&type=train_sae&owner=o&tag=t&q=text&limit=5&offset=2&sort=-name"
    assert script.requests[0].path == expected


@pytest.mark.parametrize("width", ["60", "80", "120", "200"])
def test_ls_shows_id_and_status_whatever_the_width(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    from orchestrator.cli import console

    monkeypatch.setattr(console.out, "_width", int(width))
    result, _ = run(monkeypatch, ["ls"], page(job_json("running", name="n" * 200)))
    assert str(JOB)[:8] in result.stdout
    assert "running" in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_ls_says_why_a_job_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = {"reason": "cpu_busy", "detail": "all cores are taken", "position": 2, "eta_s": None}
    result, _ = run(monkeypatch, ["ls"], page(job_json(wait=wait)))
    assert "all cores are taken (place 2)" in result.stdout


def test_ls_shows_the_first_line_of_a_failure_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = {"reason": "cuda_oom", "message": "first\nsecond", "field": None, "suggestion": None}
    result, _ = run(monkeypatch, ["ls"], page(job_json("failed", failure=failure)))
    assert "cuda_oom: first" in result.stdout
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("figures", "label"), [({"results": {"fvu": 0.1}}, "held-out FVU 0.1"), ({"metrics": {"fvu": 0.1}}, " FVU 0.1")]
)
def test_ls_tells_held_out_figures_from_those_of_training(
    monkeypatch: pytest.MonkeyPatch, figures: dict[str, object], label: str
) -> None:
    result, _ = run(monkeypatch, ["ls"], page(job_json("running", **figures)))
    assert label in result.stdout


def test_a_job_cannot_rewrite_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, ["ls"], page(job_json(name="\x1b[2Jgone [red]x")))
    assert "\x1b" not in result.stdout
    assert "[red]x" in result.stdout


def test_json_of_ls_is_the_apis_own_page(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, ["ls", "--json"], page(job_json()))
    assert json.loads(result.stdout)["items"][0]["id"] == str(JOB)


def test_show_tells_the_failure_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = {
        "reason": "cuda_oom",
        "message": "out of memory",
        "field": "batch_size",
        "suggestion": "lower batch_size",
    }
    answers = [Answer(body=job_json("failed", failure=failure)), Answer(body=[]), Answer(body=[])]
    result, _ = run(monkeypatch, ["show", str(JOB)], *answers)
    assert "out of memory (cuda_oom)" in result.stdout
    assert "lower batch_size" in result.stdout


@pytest.mark.parametrize("name", ["cancel", "pause", "resume", "stop", "restart", "checkpoint"])
def test_each_action_answers_with_the_job_as_json(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    result, _ = run(monkeypatch, [name, str(JOB), "--json"], Answer(202, job_json("running")))
    assert json.loads(result.stdout)["status"] == "running"


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("stop", "running", "is being stopped: ▶ running"),
        ("stop", "stopped", "is stopped"),
        ("pause", "paused", "is paused"),
        ("cancel", "cancelled", "is cancelled"),
    ],
)
def test_an_action_on_a_job_already_there_is_told_as_done(
    monkeypatch: pytest.MonkeyPatch, name: str, status: str, said: str
) -> None:
    result, _ = run(monkeypatch, [name, str(JOB)], Answer(202, job_json(status)))
    assert result.stdout == f"{JOB} {said}\n"


def test_set_lr_sends_the_new_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["set-lr", str(JOB), "3e-4"], Answer(202, job_json("running")))
    assert script.requests[0].path == f"/api/jobs/{JOB}/learning-rate"
    assert sent(script) == {"lr": 0.0003}
    assert "0.0003" in result.stdout


def test_a_learning_rate_that_is_no_number_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["set-lr", str(JOB), "nan"], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT
    assert script.requests == []


@pytest.mark.parametrize(("words", "fresh"), [([], False), (["--fresh"], True)])
def test_a_restart_starts_over_only_when_told_to(
    monkeypatch: pytest.MonkeyPatch, words: list[str], fresh: bool
) -> None:
    _, script = run(monkeypatch, ["restart", str(JOB), *words], Answer(201, job_json("queued")))
    assert script.requests[-1].path == f"/api/jobs/{JOB}/restart"
    assert json.loads(script.requests[-1].body) == {"fresh": fresh, "checkpoint": None, "params": None}


def test_a_restart_may_change_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["restart", str(JOB), "--checkpoint", "best", "-p", "lr=1e-4"]
    _, script = run(monkeypatch, words, Answer(201, job_json("queued")))
    assert sent(script) == {"fresh": False, "checkpoint": "best", "params": {"lr": 1e-4}}


def changes_json(command_id: str | None) -> dict[str, object]:
    live = {"name": "lr", "now": None, "wanted": 0.0001, "applies": "now"}
    return {
        "differences": [live, {"name": "k", "now": 32, "wanted": 64, "applies": "new_job"}],
        "command_id": command_id,
    }


@pytest.mark.parametrize(
    ("words", "command_id", "said"), [([], str(JOB), "asked for"), (["--dry-run"], None, "can be changed now")]
)
def test_set_shows_what_differs_and_what_wants_a_new_job(
    monkeypatch: pytest.MonkeyPatch, words: list[str], command_id: str | None, said: str
) -> None:
    arguments = ["set", str(JOB), "lr=1e-4", "k=64", *words]
    result, script = run(monkeypatch, arguments, Answer(202, changes_json(command_id)))
    assert script.requests[0].path == f"/api/jobs/{JOB}/parameters"
    assert sent(script) == {"params": {"lr": 1e-4, "k": 64}, "dry_run": bool(words)}
    assert result.stdout.splitlines() == [
        f"lr: null -> 0.0001  ({said})",
        "k: 32 -> 64  (wants a new job: saeforge clone)",
    ]


def test_set_takes_a_file_and_what_is_given_beside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sae.yaml").write_text("k: 64\nlr: 1.0e-3\n")
    words = ["set", str(JOB), "lr=1e-4", "--file", str(tmp_path / "sae.yaml")]
    _, script = run(monkeypatch, words, Answer(202, changes_json(None)))
    assert sent(script)["params"] == {"k": 64, "lr": 1e-4}


def test_set_without_anything_to_set_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["set", str(JOB)], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT
    assert script.requests == []


def test_purge_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["purge", str(JOB)], Answer(body=job_json("completed")), typed="n\n")
    assert result.exit_code == ExitCode.BAD_INPUT
    assert [request.method for request in script.requests] == ["GET"]


@pytest.mark.parametrize(("words", "typed"), [(["--yes"], ""), ([], "y\n")])
def test_purge_deletes_once_it_is_sure(monkeypatch: pytest.MonkeyPatch, words: list[str], typed: str) -> None:
    answers = [Answer(body=job_json("completed")), Answer(204, b"")]
    result, script = run(monkeypatch, ["purge", str(JOB), *words], *answers, typed=typed)
    assert result.exit_code == 0
    assert (script.requests[1].method, script.requests[1].path) == ("DELETE", f"/api/jobs/{JOB}/permanent")


def test_a_log_is_printed_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = {
        "number": 1, "executor": "docker", "handle": None, "gpus": [], "resume_from": None, "started_at": None,
        "created_at": "2026-01-01T00:00:00Z", "ended_at": None, "exit_code": None, "end_reason": None, "detail": None,
    }  # fmt: skip
    content = b"10%\r20%\r\n\xff\xfe end without newline"
    detail = Answer(body=job_json("running", attempt_list=[attempt]))
    result, _ = run(monkeypatch, ["logs", str(JOB)], detail, Answer(body=content))
    assert result.stdout_bytes == content


# Starting


def test_up_says_which_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(Script(Answer())) as url:
        port = url.rsplit(":", 1)[1]
        result = CliRunner().invoke(app, ["up", "--api-only", "--port", port])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert port in result.stderr
    assert "--port" in result.stderr


def test_up_on_a_home_in_use_says_so_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_owner(Settings()):
        result = CliRunner().invoke(app, ["up", "--api-only", "--port", "0"])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert result.stderr.startswith("error: another orchestrator runs on")
    assert len(result.stderr.splitlines()) == 2
    assert result.stdout == ""


def test_up_refuses_a_public_address_without_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_AUTH", "off")
    result = CliRunner().invoke(app, ["up", "--api-only", "--host", "0.0.0.0"])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "SAEFORGE_AUTH" in result.stderr


# Documentation


KEY = {
    "id": "0123456789ab", "name": "ci", "role": "write", "owner": "alice", "types": ["container"],
    "created_at": "2026-01-01T00:00:00Z", "created_by": "machine", "expires_at": "2026-01-02T00:00:00Z",
    "revoked_at": None, "last_used_at": None,
}  # fmt: skip


def test_a_new_key_alone_is_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["keys", "create", "ci", "--role", "write", "--owner", "alice", "--type", "container", "--expires", "90d"]
    result, script = run(monkeypatch, words, Answer(201, {**KEY, "key": "sfk_x"}))
    assert result.stdout == "sfk_x\n"
    body = sent(script)
    assert (body["role"], body["owner"], body["types"]) == ("write", "alice", ["container"])
    assert body["expires_at"]


def test_keys_are_listed_with_what_they_may_and_whether_they_still_do(monkeypatch: pytest.MonkeyPatch) -> None:
    revoked = {**KEY, "id": "ba9876543210", "revoked_at": "2026-01-01T00:00:00Z"}
    result, _ = run(monkeypatch, ["keys", "list"], Answer(body=[KEY, revoked]))
    first, second = result.stdout.splitlines()[1:]
    assert "write, jobs of alice, container" in first
    assert "expired" in first
    assert "revoked" in second


@pytest.mark.parametrize("expires", ["soon", "-1d", "1y", "9999999d"])
def test_a_time_that_is_none_is_wrong_input(monkeypatch: pytest.MonkeyPatch, expires: str) -> None:
    result, _ = run(monkeypatch, ["keys", "create", "ci", f"--expires={expires}"])
    assert result.exit_code == ExitCode.BAD_INPUT


def test_a_token_alone_is_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(201, {"token": "a.b.c", "expires_at": "2026-01-01T00:00:00Z"})
    result, script = run(monkeypatch, ["keys", "token", "--expires", "30m", "--role", "read"], answer)
    assert result.stdout == "a.b.c\n"
    assert sent(script) == {"role": "read", "lifetime_s": 1800.0}


def test_a_secret_is_read_from_standard_input_and_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    result, script = run(monkeypatch, ["secrets", "set", "HF_TOKEN"], Answer(204), typed="the value\n")
    assert sent(script) == {"value": "the value"}
    assert script.requests[0].path.startswith("/api/secrets/HF_TOKEN")
    assert "the value" not in result.output


def test_every_command_is_documented() -> None:
    text = DOCS.read_text()
    names = [command.name or "" for command in app.registered_commands] + [
        group.name for group in app.registered_groups
    ]
    assert [name for name in names if f"saeforge {name}" not in text] == []


def test_every_exit_code_is_documented() -> None:
    text = DOCS.read_text()
    assert [code for code in ExitCode if f"| {code.value} |" not in text] == []


# Metrics


def stats_json(name: str, **changes: object) -> dict[str, object]:
    figures = {"count": 30, "min": 0.25, "max": 4.0, "mean": 1.5, "std": 0.5, "first": 4.0, "last": 0.3}
    steps = {"first_step": 10, "last_step": 300, "min_step": 290, "max_step": 10}
    return {"name": name} | figures | steps | changes


def test_metrics_shows_each_with_its_range_and_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(body=[stats_json("loss"), stats_json("grad_norm.encoder", std=None)])
    result, _ = run(monkeypatch, ["metrics", str(JOB)], answer)
    _, loss, other = result.stdout.splitlines()
    assert loss.split() == ["loss", "0.3", "0.25", "290", "4", "10", "1.5", "0.5", "30"]
    assert other.split()[0] == "grad_norm.encoder"
    assert other.split()[-2:] == ["-", "30"]


def test_names_of_metrics_are_printed_one_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(body=[stats_json("fvu"), stats_json("loss")])
    result, _ = run(monkeypatch, ["metrics", str(JOB), "--names"], answer)
    assert result.stdout == "fvu\nloss\n"


def test_csv_of_metrics_is_passed_through_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    table = b"step,time,loss\n10,2026-01-01T00:00:00+00:00,0.1\n"
    result, script = run(monkeypatch, ["metrics", str(JOB), "--csv", "-n", "loss"], Answer(body=table))
    assert result.stdout_bytes == table
    assert script.requests[0].path == f"/api/jobs/{JOB}/metrics.csv?names=loss"


def test_metrics_come_in_one_form_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, ["metrics", str(JOB), "--csv", "--names"], Answer())
    assert result.exit_code == ExitCode.BAD_INPUT


def test_resources_are_shown_with_the_moments_of_their_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = dict.fromkeys(("first_ts", "last_ts", "min_ts", "max_ts"), "2026-01-01T00:00:00Z")
    answer = Answer(body={"items": [], "total": 30, "series": [stats_json("cpu_cores") | moments]})
    result, _ = run(monkeypatch, ["metrics", str(JOB), "--resources"], answer)
    assert "cpu_cores" in result.stdout


def test_what_a_job_took_is_told_with_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Answer(body=[])
    result, _ = run(monkeypatch, ["show", str(JOB)], Answer(body=job_json(gpu_hours=2.5, cost=7.5)), nothing, nothing)
    assert "2.50 GPU hours, which cost 7.50" in result.stdout
