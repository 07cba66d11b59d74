"""What may be sent to: the public internet, what is allowed beside it, and nothing by any trick."""

import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput, SettingsError
from orchestrator.outbound import Allowed, Outbound, Undeliverable, forbidden, look_up, target
from tests.scripted_api import Answer, Script, http_server

PRIVATE_V4 = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "0.0.0.0/8",
]
private_v4 = st.sampled_from(PRIVATE_V4).flatmap(lambda network: st.ip_addresses(v=4, network=network))
public_v4 = st.ip_addresses(v=4).filter(lambda address: not forbidden(address))


@given(private_v4)
def test_a_private_address_is_refused_in_every_disguise(address: IPv4Address) -> None:
    number = int(address)
    for disguise in (
        address,
        IPv6Address(0xFFFF_0000_0000 | number),
        IPv6Address(number),
        IPv6Address((0x2002 << 112) | (number << 80)),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2001_0000 << 96) | (number ^ 0xFFFFFFFF)),
    ):
        assert forbidden(disguise), disguise


@given(public_v4)
def test_a_public_address_is_not_refused_for_being_written_as_ipv6(address: IPv4Address) -> None:
    number = int(address)
    assert not forbidden(IPv6Address(0xFFFF_0000_0000 | number))
    assert not forbidden(IPv6Address((0x64FF9B << 96) | number))


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "::1", "::", "0.0.0.0",
        "fe80::1", "fec0::1", "fc00::1", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "192.88.99.1",
        "198.18.0.1", "203.0.113.1", "2001:db8::1", "64:ff9b:1::7f00:1",
    ],
)  # fmt: skip
def test_loopback_neighbours_and_metadata_services_are_refused(text: str) -> None:
    assert forbidden(ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "140.82.112.3", "2606:4700:4700::1111"])
def test_the_public_internet_is_not(text: str) -> None:
    assert not forbidden(ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "file:///etc/passwd", "gopher://example.org", "//example.org", "example.org", "http://",
        "https:///path", "http://user@example.org/", "http://user:pass@example.org/", "http://example.org/#part",
        "http://example.org\\@127.0.0.1/", "http://exa mple.org/", "http://example.org:0/", "http://example.org:99999/",
        "http://example.org/\r\nHost: x", "http://[::1", "http://" + "a" * 3000, "http://ex\u0430mple.org/",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        target(url)
    assert refused.value.field == "url"


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused_in_words(text: str) -> None:
    try:
        parsed = target(f"http://{text}")
    except InvalidInput:
        return
    assert parsed.scheme == "http"
    assert parsed.host
    assert not parsed.userinfo


@pytest.fixture
async def outbound() -> AsyncIterator[Any]:
    made: list[Outbound] = []

    def make(allow: str = "", **options: Any) -> Outbound:
        made.append(Outbound(Allowed.parse(allow), timeout_s=options.pop("timeout_s", 5.0), **options))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "0x7f.1", "127.0.0.1.",
    ],
)  # fmt: skip
async def test_this_machine_is_refused_however_its_address_is_written(outbound: Any, host: str) -> None:
    with http_server(Script(Answer())) as url:
        port = url.rsplit(":", 1)[1]
        with pytest.raises((InvalidInput, Undeliverable)):
            await outbound().post(f"http://{host}:{port}/", b"{}", {})


@given(st.integers(0, 0xFFFFFFFF).map(IPv4Address))
def test_the_numbers_a_host_may_be_written_as_are_judged_by_the_address_they_stand_for(address: IPv4Address) -> None:
    """The system reads them all; what is judged is what it says, so nothing here parses them a second time."""
    number = int(address)
    for host in (str(number), hex(number), str(address)):
        found = socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
        assert {ip_address(str(entry[4][0])) for entry in found} == {address}


async def test_one_private_address_among_public_ones_refuses_the_name(outbound: Any) -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["1.1.1.1", "10.0.0.5"]

    with pytest.raises(InvalidInput, match=r"10\.0\.0\.5"):
        await outbound(look_up=two).addresses(target("http://example.org/"))


async def test_the_connection_goes_to_the_address_that_was_judged_though_the_name_stands_for_another_by_then(
    outbound: Any,
) -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.2"] if len(asked) == 1 else ["10.0.0.1"]

    script = Script(Answer())
    with http_server(script) as url:
        port = url.rsplit(":", 1)[1]
        sender = outbound(allow="127.0.0.2", look_up=rebinding, timeout_s=2.0)
        # Nobody listens on 127.0.0.2, so that a connection there, and only there, is refused.
        with pytest.raises(Undeliverable, match="ConnectError"):
            await sender.post(f"http://name.example:{port}/", b"{}", {})
    assert asked == ["name.example"]


async def test_an_allowed_address_or_name_is_sent_to_with_the_name_it_was_asked_by(outbound: Any) -> None:
    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    for allow in ("127.0.0.0/8", "127.0.0.1", "hooks.internal"):
        script = Script(Answer(204))
        with http_server(script) as url:
            port = url.rsplit(":", 1)[1]
            answer = await outbound(allow=allow, look_up=here).post(
                f"http://hooks.internal:{port}/x?y=1", b"{}", {"webhook-id": "1"}
            )
        assert answer.status_code == 204
        assert script.requests[0].headers["Host"] == f"hooks.internal:{port}"
        assert script.requests[0].path == "/x?y=1"


async def test_a_redirect_is_an_answer_and_not_followed(outbound: Any) -> None:
    script = Script(Answer(302, headers={"Location": "http://127.0.0.1/elsewhere"}))
    with http_server(script) as url:
        answer = await outbound(allow="127.0.0.1").post(url + "/", b"{}", {})
    assert answer.status_code == 302
    assert len(script.requests) == 1


async def test_a_proxy_of_the_environment_is_not_asked(outbound: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with http_server(Script(Answer())) as url:
        assert (await outbound(allow="127.0.0.1").post(url + "/", b"{}", {})).status_code == 200


async def test_a_name_that_stands_for_nothing_cannot_be_delivered_to(outbound: Any) -> None:
    async def nothing(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(Undeliverable, match="cannot be resolved"):
        await outbound(look_up=nothing).post("http://nowhere.example/", b"{}", {})


async def test_the_system_is_asked_off_the_loop() -> None:
    assert "127.0.0.1" in await look_up("127.0.0.1", 80)


@pytest.mark.parametrize("text", ["10.0.0.0/99", "a b", "http://x"])
def test_a_setting_that_allows_nothing_sensible_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="SAEFORGE_WEBHOOK_ALLOW"):
        Allowed.parse(text)
