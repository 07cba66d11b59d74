"""Keys that were revoked stay revoked, whatever copy of the database is put back."""

from pathlib import Path

from orchestrator.access import MACHINE, Role
from orchestrator.keyring import KeyRing
from orchestrator.revocations import Revocations
from orchestrator.store import Store
from orchestrator.store.backup import back_up, restore, revoked_keys


async def test_a_key_that_was_revoked_since_the_backup_opens_nothing_after_it_was_put_back(tmp_path: Path) -> None:
    database, revocations = tmp_path / "saeforge.db", Revocations(tmp_path / "revoked-keys")
    store = await Store.open(database)
    ring = await KeyRing.open(store, revocations)
    revoked, text = await ring.make(name="a", role=Role.WRITE, by=MACHINE)
    _, kept = await ring.make(name="b", role=Role.WRITE, by=MACHINE)
    backup = back_up(database, tmp_path / "one.db")
    await ring.revoke(revoked.id)
    await store.close()
    restore(backup.path, database, tmp_path)
    again = await Store.open(database)
    opened = await KeyRing.open(again, revocations)
    assert opened.find(text) is None
    assert opened.find(kept) is not None
    assert [key.revoked_at is not None for key in await again.keys.all() if key.id == revoked.id] == [True]
    await again.close()


async def test_what_was_revoked_before_it_was_written_beside_the_database_is_written_at_a_start(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "saeforge.db")
    ring = await KeyRing.open(store, Revocations(tmp_path / "elsewhere"))
    key, _ = await ring.make(name="a", role=Role.READ, by=MACHINE)
    await ring.revoke(key.id)
    revocations = Revocations(tmp_path / "revoked-keys")
    await KeyRing.open(store, revocations)
    assert revocations.read() == {key.id}
    await store.close()
    assert revoked_keys(tmp_path / "saeforge.db") == [key.id]


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path / "revoked-keys")
    revocations.add(["aaaa"])
    with (tmp_path / "revoked-keys").open("a") as file:
        file.write("bb")
    revocations.add(["cccc", "aaaa"])
    assert revocations.read() == {"aaaa", "bb", "cccc"}
    assert (tmp_path / "revoked-keys").read_text().count("aaaa") == 1
