import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from orchestrator.access import MACHINE, Principal, Role
from orchestrator.api.tokens import Tokens
from orchestrator.errors import InvalidInput, SettingsError, Unauthenticated

SECRET = "a secret of more than thirty-two bytes"
ALICE = Principal("k1", "alice's", Role.WRITE, owner="alice", types=("container",), key_id="k1")


def always(_: str) -> bool:
    return True


def _claims(without: str | None = None, **changed: object) -> dict[str, object]:
    """What a good token says now, but for what is changed or left out."""
    claims = {"sub": "alice", "role": "read", "exp": time.time() + 60} | changed
    return {name: claim for name, claim in claims.items() if name != without}


def _signed(claims: dict[str, object], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, secret, algorithm=algorithm)


def test_a_token_speaks_for_its_maker() -> None:
    tokens = Tokens(SECRET)
    text, expires_at = tokens.sign(ALICE, role=None, lifetime_s=60)
    read = tokens.read(text, always)
    assert replace(read, expires_at=None) == replace(ALICE, id="token:k1", name="k1")
    assert abs((expires_at - datetime.now(UTC)).total_seconds() - 60) < 5


def test_a_token_is_never_mightier_than_its_maker() -> None:
    with pytest.raises(InvalidInput, match="role"):
        Tokens(SECRET).sign(ALICE, role=Role.ADMIN, lifetime_s=60)
    assert Tokens(SECRET).read(Tokens(SECRET).sign(MACHINE, role=Role.READ, lifetime_s=60)[0], always).role == "read"


def test_a_token_does_not_outlast_its_key() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=5)
    assert Tokens(SECRET).sign(replace(ALICE, expires_at=soon), role=None, lifetime_s=600)[1] == soon


def test_a_token_ends_with_its_key() -> None:
    text, _ = Tokens(SECRET).sign(ALICE, role=None, lifetime_s=60)
    with pytest.raises(Unauthenticated, match="no longer in force"):
        Tokens(SECRET).read(text, lambda key_id: key_id != "k1")


def _unsigned() -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, _claims())]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


# Made when the test runs: between collection and this test a slow run of the whole suite may take half an hour.
@pytest.mark.parametrize(
    "made",
    [
        lambda: _signed(_claims(), "another secret of more than thirty-two"),
        lambda: _signed(_claims(), SECRET * 2, "HS512"),
        _unsigned,
        lambda: _signed(_claims(exp=time.time() - 60)),
        lambda: _signed(_claims(without="exp")),
        lambda: _signed(_claims(without="sub")),
        lambda: _signed(_claims(without="role")),
        lambda: _signed(_claims(role="root")),
        lambda: _signed(_claims(exp=1e18)),
        lambda: _signed(_claims(role="admin", owner="alice")),
        lambda: _signed(_claims(nbf=time.time() + 600)),
        lambda: "a.b.c",
    ],
    ids=[
        "another secret",
        "another algorithm",
        "unsigned",
        "expired",
        "never expiring",
        "of nobody",
        "without a role",
        "an unknown role",
        "an impossible date",
        "an admin with an owner",
        "not yet in force",
        "no token",
    ],
)
def test_what_was_not_signed_so_is_not_accepted(made: Callable[[], str]) -> None:
    assert Tokens(SECRET).read(_signed(_claims()), always).name == "alice"
    with pytest.raises(Unauthenticated):
        Tokens(SECRET).read(made(), always)


def test_issuer_and_audience_are_asked_for_where_they_are_set() -> None:
    strict = Tokens(SECRET, issuer="us", audience="saeforge")
    assert strict.read(_signed(_claims(iss="us", aud="saeforge")), always).name == "alice"
    assert strict.read(strict.sign(ALICE, role=None, lifetime_s=60)[0], always)
    for claims in (_claims(), _claims(iss="us"), _claims(iss="us", aud="other"), _claims(aud="saeforge")):
        with pytest.raises(Unauthenticated):
            strict.read(_signed(claims), always)


def test_a_secret_short_enough_to_guess_is_refused() -> None:
    with pytest.raises(SettingsError, match="32"):
        Tokens("short")
