import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput, LaunchFailed, NotFound
from orchestrator.settings import Settings
from orchestrator.vault import MAX_BYTES, Vault, scrubbed

MEMORY = Path("/dev/shm")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A name of its own on the file system in memory."""
    folder = MEMORY / f"saeforge-test-{tmp_path.parent.name}-{tmp_path.name}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def vault(tmp_path: Path, memory: Path) -> Vault:
    return Vault(Settings(home=tmp_path, secrets_tmpfs=memory))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_at_rest_only_its_owner_can_read_it(vault: Vault, tmp_path: Path) -> None:
    vault.put("HF_TOKEN", None, "value")
    vault.put("HF_TOKEN", "alice", "her value")
    kept = tmp_path / "secrets"
    assert mode(kept) == 0o700
    assert {mode(path) for path in kept.rglob("*") if path.is_file()} == {0o600}
    assert {mode(path) for path in kept.rglob("*") if path.is_dir()} == {0o700}


def test_names_and_owners_are_listed_and_values_are_not(vault: Vault) -> None:
    vault.put("A", None, "value a")
    vault.put("B", "alice", "value b")
    assert [(secret.name, secret.owner) for secret in vault.all()] == [("A", None), ("B", "alice")]
    assert "value" not in repr(vault.all())


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".owner", "1A", "A" * 65, "A B", "Ä", "A\n"])
def test_a_name_that_is_no_variables_is_refused(vault: Vault, name: str) -> None:
    with pytest.raises(InvalidInput):
        vault.put(name, None, "value")
    with pytest.raises(InvalidInput):
        vault.check([name], "default")
    with pytest.raises(NotFound):
        vault.delete(name, None)


@pytest.mark.parametrize("value", ["", "x" * (MAX_BYTES + 1)])
def test_a_value_of_no_or_of_too_many_bytes_is_refused_without_repeating_it(vault: Vault, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        vault.put("A", None, value)
    assert "xxx" not in str(refused.value)


def test_a_job_can_have_its_owners_secrets_and_everybodys(vault: Vault) -> None:
    vault.put("A", None, "value")
    vault.put("B", "alice", "value")
    vault.check(["A", "B"], "alice")
    with pytest.raises(InvalidInput) as refused:
        vault.check(["A", "B"], "bob")
    assert refused.value.field == "secrets"


def test_an_attempt_finds_its_secrets_in_memory_and_nowhere_after_its_end(vault: Vault, memory: Path) -> None:
    vault.put("A", None, "everybody's")
    vault.put("A", "alice", "hers")
    vault.put("B", None, "other")
    vault.lend("attempt-1", ["A"], "alice")
    folder = vault.lent_at("attempt-1")
    assert folder.is_relative_to(memory)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"A": "hers"}
    assert (mode(folder), mode(folder / "A"), mode(memory)) == (0o500, 0o400, 0o700)
    assert vault.values("attempt-1") == ("hers",)
    vault.take_back("attempt-1")
    vault.take_back("attempt-1")
    assert not folder.exists()
    assert vault.values("attempt-1") == ()


def test_lending_again_changes_nothing(vault: Vault) -> None:
    vault.put("A", None, "first")
    vault.lend("attempt-1", ["A"], "alice")
    vault.put("A", None, "second")
    vault.lend("attempt-1", ["A"], "alice")
    assert vault.values("attempt-1") == ("first",)
    vault.take_back("attempt-1")


def test_a_sweep_takes_back_what_no_live_attempt_has(vault: Vault) -> None:
    vault.put("A", None, "value")
    for attempt in ("live", "dead"):
        vault.lend(attempt, ["A"], "default")
    vault.sweep({"live"})
    assert vault.lent_at("live").exists()
    assert not vault.lent_at("dead").exists()
    vault.take_back("live")


def test_a_sweep_leaves_another_home_alone(vault: Vault, tmp_path: Path, memory: Path) -> None:
    vault.put("A", None, "value")
    vault.lend("attempt-1", ["A"], "default")
    Vault(Settings(home=tmp_path / "other", secrets_tmpfs=memory)).sweep(set())
    assert vault.lent_at("attempt-1").exists()
    vault.take_back("attempt-1")


def test_a_secret_deleted_since_the_submit_fails_the_launch_in_words(vault: Vault) -> None:
    vault.put("A", None, "value")
    vault.delete("A", None)
    with pytest.raises(LaunchFailed, match="A was deleted"):
        vault.lend("attempt-1", ["A"], "default")


def test_nothing_is_lent_on_a_disk(vault: Vault, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.put("A", None, "value")
    monkeypatch.setattr("orchestrator.vault._MEMORY", frozenset({"a kind of file system that nobody has"}))
    with pytest.raises(LaunchFailed, match="on a disk"):
        vault.lend("attempt-1", ["A"], "default")
    assert not list(memory.rglob("A"))


def test_a_directory_that_somebody_else_prepared_is_not_used(vault: Vault, memory: Path, tmp_path: Path) -> None:
    vault.put("A", None, "value")
    trap = tmp_path / "trap"
    trap.mkdir()
    memory.symlink_to(trap)
    try:
        with pytest.raises(LaunchFailed, match="cannot be laid out"):
            vault.lend("attempt-1", ["A"], "default")
        assert not list(trap.iterdir())
    finally:
        memory.unlink()


def test_values_are_scrubbed_as_they_are_and_as_json_writes_them() -> None:
    value = 'multi\nline "quöted"'
    for text in (value, json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert "line" not in scrubbed(f"token {text} was refused", [value])
    assert scrubbed("a short one: abc", ["abc"]) == "a short one: abc"
    assert scrubbed("with its line end: secret-value", ["secret-value\n"]) == "with its line end: ***"
