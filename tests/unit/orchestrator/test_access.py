import pytest

from orchestrator.access import MACHINE, Principal, Role, acting, actor, digest_of, key_id_of, new_key
from orchestrator.errors import Forbidden


def test_each_role_may_do_what_the_ones_before_it_may() -> None:
    covered = {role: {needed for needed in Role if role.covers(needed)} for role in Role}
    assert covered[Role.READ] == {Role.READ}
    assert covered[Role.WRITE] == {Role.READ, Role.WRITE}
    assert covered[Role.ADMIN] == set(Role)


def test_a_key_names_its_id_and_hides_its_secret_in_the_digest() -> None:
    key_id, text = new_key()
    assert key_id_of(text) == key_id
    assert text[-43:] not in digest_of(text)
    assert new_key()[1] != text


@pytest.mark.parametrize(
    "text", ["", "sfk_", "sfk_0123456789ab_short", "sf_" + "x" * 43, "sfk_0123456789AB_" + "x" * 43]
)
def test_what_was_not_made_here_is_no_key(text: str) -> None:
    assert key_id_of(text) is None


def test_a_scope_covers_its_owner_and_types_only() -> None:
    alice = Principal("k", "k", Role.WRITE, owner="alice", types=("container",))
    assert alice.covers("alice", "container")
    assert not alice.covers("bob", "container")
    assert not alice.covers("alice", "train_sae")
    assert MACHINE.covers("bob", "train_sae")


def test_what_a_scoped_key_submits_is_its_owners() -> None:
    alice = Principal("k", "k", Role.WRITE, owner="alice")
    assert alice.owner_for(None) == "alice"
    with pytest.raises(Forbidden, match="alice"):
        alice.owner_for("bob")
    assert MACHINE.owner_for(None) == "default"
    assert MACHINE.owner_for("bob") == "bob"


def test_only_what_is_done_for_somebody_has_an_actor() -> None:
    with acting(MACHINE):
        assert actor() == "machine"
    assert actor() is None
