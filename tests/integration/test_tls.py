"""compose/nginx.conf for real: nginx in front of an orchestrator, and clients that come through TLS."""

import http.client
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

import pytest
import requests
from websockets.sync.client import connect

from orchestrator.client import Client, Unreachable
from orchestrator.domain import RetryPolicy
from orchestrator.errors import TooLarge
from tests.engine import ROOT
from tests.machine import Machine, free_port
from tests.waiting import until

NAME = "localhost"
AROUND = """
{user}daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {folder}/saeforge.conf;
}}
"""
"""What the image's own nginx.conf does around the files in conf.d."""
OWN_KEY = "one-of-our-own-that-is-long-enough"


@dataclass
class Proxy:
    """nginx with our configuration, an orchestrator and something like a dashboard behind it."""

    machine: Machine
    url: str
    plain_url: str
    ca_file: Path

    def client(self) -> Client:
        return Client(self.url, OWN_KEY, retries=0)

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.url + path, headers=headers, verify=str(self.ca_file), timeout=10)


class _Dashboard(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = f"dashboard {self.headers.get('Authorization')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def dashboard() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, dashboard: int) -> Iterator[Proxy]:
    nginx, openssl = _program("nginx"), _program("openssl")
    folder = tmp_path_factory.mktemp("tls")
    _run(
        *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"),
        *("-addext", f"subjectAltName=DNS:{NAME}", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"),
    )
    (folder / "htpasswd").write_text(f"me:{_run(openssl, 'passwd', '-apr1', 'my password')}\n")
    https, http = free_port(), free_port()
    machine = Machine(tmp_path_factory.mktemp("behind") / "home", "process")
    machine.environment |= {
        "SAEFORGE_API_KEY": OWN_KEY,
        "SAEFORGE_PUBLIC_URL": f"https://{NAME}:{https}",
        "SAEFORGE_TRUSTED_PROXIES": "127.0.0.1",
        "SAEFORGE_AUTH_FAILURES_PER_MINUTE": "3",
    }
    filled = Template((ROOT / "compose" / "nginx.conf").read_text()).safe_substitute(
        PROXY_NAME=NAME,
        PROXY_URL=f"https://{NAME}:{https}",
        PROXY_HTTP=f"127.0.0.1:{http}",
        PROXY_HTTPS=f"127.0.0.1:{https}",
        PROXY_TLS=str(folder),
        PROXY_ORCHESTRATOR=f"127.0.0.1:{machine.port}",
        PROXY_DASHBOARD=f"127.0.0.1:{dashboard}",
    )
    (folder / "saeforge.conf").write_text(filled)
    # Root's workers would be another user, who cannot look into our directories.
    user = "user root; " if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user))
    machine.start()
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE)
    found = Proxy(machine, f"https://{NAME}:{https}", f"http://{NAME}:{http}", folder / "cert.pem")
    try:
        until(lambda: _answers(found, process), "nginx answers", lambda: (folder / "error.log").read_text())
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=10)
        machine.end()


def _answers(proxy: Proxy, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    try:
        return proxy.get("/health").ok
    except requests.ConnectionError:
        return False


@pytest.fixture(autouse=True)
def _trusted(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_CA_FILE", str(proxy.ca_file))


def test_the_client_works_through_tls_over_http_and_websocket(proxy: Proxy) -> None:
    with proxy.client() as client:
        assert client.me().role == "admin"
        # No engine here, so it fails; what it says on the way comes over the socket.
        job = client.submit("container", {"image": "busybox", "command": ["true"]}, retry=RetryPolicy(max_retries=0))
        assert client.wait(job.id, timeout_s=60).status == "failed"
        events = client.follow_events(job.id)
        assert next(events).type == "job_created"
        events.close()
        assert list(client.follow_log(job.id)) == []


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEFORGE_CA_FILE")
    with proxy.client() as client:
        with pytest.raises(Unreachable):
            client.me()
        with pytest.raises(Unreachable):
            next(client.follow_events())


def test_a_browsers_page_opens_its_websocket_on_the_same_name(proxy: Proxy) -> None:
    with proxy.client() as client:
        ticket = client.ticket().ticket
    tls = ssl.create_default_context(cafile=proxy.ca_file)
    headers = {"Authorization": "Basic bWU6bXkgcGFzc3dvcmQ="}
    url = proxy.url.replace("https", "wss") + "/api/events"
    with connect(url, ssl=tls, origin=proxy.url, additional_headers=headers) as socket:  # type: ignore[arg-type]
        socket.send(f'{{"type": "auth", "ticket": "{ticket}"}}')
        with proxy.client() as client:
            client.submit("container", {"image": "busybox", "command": ["true"]})
        assert "job_created" in str(socket.recv(10))


def test_the_dashboard_asks_who_comes_and_the_api_for_its_own_key(proxy: Proxy) -> None:
    assert proxy.get("/").status_code == 401
    known = proxy.get("/", Authorization="Basic bWU6bXkgcGFzc3dvcmQ=")
    assert (known.status_code, known.text) == (200, "dashboard None")
    assert proxy.get("/api/jobs").json()["code"] == "unauthenticated"
    assert proxy.get("/api/jobs", Authorization="Basic bWU6bXkgcGFzc3dvcmQ=").status_code == 401
    assert proxy.get("/api/jobs", Authorization=f"Bearer {OWN_KEY}").ok


def test_without_tls_one_is_sent_to_where_it_is(proxy: Proxy) -> None:
    for url in (proxy.plain_url, proxy.url.replace("https", "http")):
        headers = {"Host": "elsewhere.example"}
        answer = requests.get(f"{url}/api/jobs?limit=1", headers=headers, allow_redirects=False, timeout=10)
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{proxy.url}/api/jobs?limit=1")


def test_who_came_through_tls_once_is_to_do_so_always(proxy: Proxy) -> None:
    for path in ("/health", "/"):
        assert "max-age" in proxy.get(path).headers["Strict-Transport-Security"]


def test_no_other_page_can_put_the_dashboard_into_a_frame(proxy: Proxy) -> None:
    headers = proxy.get("/", Authorization="Basic bWU6bXkgcGFzc3dvcmQ=").headers
    assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("SAMEORIGIN", "nosniff")


def test_nobody_can_claim_another_address(proxy: Proxy) -> None:
    codes = [
        proxy.get("/api/jobs", Authorization=f"Bearer wrong {number}", **{"X-Forwarded-For": f"10.0.0.{number}"})
        for number in range(8)
    ]
    assert [answer.status_code for answer in codes][-1] == 429, "all of them were counted for the one who asked"


def test_forwarded_headers_are_believed_from_the_proxy_alone(proxy: Proxy) -> None:
    def knock(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.machine.port, source_address=("127.0.0.9", 0))
        headers = {"X-API-Key": f"wrong {number}", "X-Forwarded-For": f"10.0.1.{number}"}
        connection.request("GET", "/api/jobs", headers=headers)
        status = connection.getresponse().status
        connection.close()
        return status

    assert [knock(number) for number in range(4)] == [401, 401, 401, 429]


def test_what_is_too_large_for_the_proxy_is_told_as_the_api_tells_it(proxy: Proxy) -> None:
    with pytest.raises(TooLarge, match="larger than 8 MiB"), proxy.client() as client:
        client.submit("container", {"image": "busybox", "command": ["x" * (9 << 20)]})
