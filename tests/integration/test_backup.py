"""Backups from the command line, with a real orchestrator in a process of its own."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.console import ExitCode
from orchestrator.domain import RetryPolicy
from orchestrator.store.backup import check
from tests.machine import Machine

PARAMS = {"image": "busybox", "command": ["true"]}
ONCE = RetryPolicy(max_retries=0)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path / "home", "process")
    one.start()
    yield one
    if one.server is not None and one.server.poll() is None:
        one.end()


def damage(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        file.write(os.urandom(8192))


def backed_up(machine: Machine, *words: str) -> Path:
    result = machine.run("backup", *words, "--json")
    assert result.returncode == 0, result.stderr
    return Path(json.loads(result.stdout)["path"])


def test_what_was_backed_up_is_there_after_it_was_put_back_and_so_is_what_was_replaced(machine: Machine) -> None:
    with machine.client() as client:
        # Fails at once here, for want of an engine: it is the record that matters.
        first = client.wait(client.submit("container", PARAMS, retry=ONCE).id, timeout_s=30)
        backup = backed_up(machine)
        assert backup.parent == machine.home / "backups"
        assert [Path(item.path) for item in client.backups()] == [backup]
        client.purge(first.id)
    refused = machine.run("restore", str(backup))
    assert refused.returncode == ExitCode.BAD_INPUT
    assert b"another orchestrator runs" in refused.stderr
    machine.end(signal.SIGKILL)
    restored = machine.run("restore", str(backup), "--json")
    assert restored.returncode == 0, restored.stderr
    report = json.loads(restored.stdout)
    assert report["jobs"] == 1
    assert check(Path(report["replaced"])) == []
    machine.start()
    with machine.client() as client:
        assert client.job(first.id).status == first.status


def test_a_backup_can_be_made_anywhere_and_while_nothing_runs(machine: Machine, tmp_path: Path) -> None:
    machine.end()
    assert backed_up(machine, str(tmp_path / "mine.db")) == tmp_path / "mine.db"
    assert backed_up(machine).parent == machine.home / "backups"
    assert check(tmp_path / "mine.db") == []


def test_on_a_damaged_database_up_refuses_in_words_and_names_the_backup_that_mends_it(machine: Machine) -> None:
    backup = backed_up(machine)
    machine.end()
    damage(machine.home / "saeforge.db")
    refused = machine.run("up", "--api-only")
    assert refused.returncode == ExitCode.ORCHESTRATOR_ERROR
    assert refused.stdout == b""
    assert b"is damaged" in refused.stderr
    assert str(backup).encode() in refused.stderr
    assert b"Traceback" not in refused.stderr
    doctor = machine.run("doctor", "--json")
    [finding] = [item for item in json.loads(doctor.stdout) if item["name"] == "database"]
    assert (finding["state"], finding["required"]) == ("missing", True)
    assert str(backup) in finding["remedy"]
    assert machine.run("restore", str(backup)).returncode == 0
    machine.start()


def test_without_a_backup_the_run_directories_alone_give_the_jobs_back(machine: Machine) -> None:
    with machine.client() as client:
        job = client.wait(client.submit("container", PARAMS, retry=ONCE).id, timeout_s=30)
    machine.end()
    damage(machine.home / "saeforge.db")
    refused = machine.run("up", "--api-only")
    assert b"restore --from-runs" in refused.stderr
    restored = machine.run("restore", "--from-runs", "--json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["jobs_rebuilt"] == 1
    machine.start()
    with machine.client() as client:
        again = client.job(job.id)
    assert (again.status, again.name, again.failure) == (job.status, job.name, job.failure)


def test_cleanup_archives_what_ended_longer_ago(machine: Machine) -> None:
    with machine.client() as client:
        job = client.wait(client.submit("container", PARAMS, retry=ONCE).id, timeout_s=30)
        assert b"0 jobs" in machine.run("cleanup").stdout
        assert b"would be archived" in machine.run("cleanup", "--older-than", "0d", "--dry-run").stdout
        assert b"1 jobs archived" in machine.run("cleanup", "--older-than", "0h").stdout
        assert client.jobs().total == 0
    assert str(job.id)[:8].encode() in machine.run("ls", "--archived").stdout
    wrong = machine.run("cleanup", "--older-than", "soon")
    assert wrong.returncode == ExitCode.BAD_INPUT
    assert b"30d" in wrong.stderr
