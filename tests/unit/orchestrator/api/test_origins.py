from pathlib import Path

import pytest

from orchestrator.api.origins import Origins
from orchestrator.settings import Settings


def _origins(tmp_path: Path, **changes: str) -> Origins:
    return Origins(Settings(home=tmp_path, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.1.7:8000", "LOCALHOST"])
def test_loopback_and_bare_addresses_are_answered(tmp_path: Path, host: str) -> None:
    assert _origins(tmp_path).answers_to(host)


@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example", "", "[", "127.0.0.1.evil.example"])
def test_a_name_that_somebody_else_may_point_here_is_not(tmp_path: Path, host: str) -> None:
    assert not _origins(tmp_path).answers_to(host)


def test_names_that_were_allowed_are_answered(tmp_path: Path) -> None:
    origins = _origins(tmp_path, allowed_hosts="gpu.lab, *.example.org", public_url="https://sae.example.com/")
    assert origins.answers_to("gpu.lab:8000")
    assert origins.answers_to("a.b.example.org")
    assert origins.answers_to("sae.example.com")
    assert not origins.answers_to("example.org.evil")
    assert _origins(tmp_path, allowed_hosts="*").answers_to("anything.at.all")


def test_without_auth_only_loopback_is_answered_whatever_is_allowed(tmp_path: Path) -> None:
    origins = _origins(tmp_path, auth="off", allowed_hosts="*", public_url="https://sae.example.com/")
    assert origins.answers_to("127.0.0.1:8000")
    assert not any(origins.answers_to(host) for host in ("evil.example", "192.168.1.7", "sae.example.com"))
