"""The dashboard in Chromium against a real orchestrator that trains real, tiny SAEs in plain processes."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest
import requests
from playwright.sync_api import expect

from orchestrator.client import Client
from orchestrator.domain import JobStatus
from tests.e2e.browser import Visit, browser
from tests.machine import Machine, free_port
from tests.tiny import DATASET, HOOKPOINT, MODEL, put_inputs
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


expect.set_options(timeout=30_000)


class Stack(Machine):
    """Orchestrator and dashboard as processes of their own, of which each may be killed."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, "process")
        self.dashboard_port = free_port()
        self.environment["SAEFORGE_DASHBOARD_PORT"] = str(self.dashboard_port)
        self.environment["SAEFORGE_LOG_QUOTA_MB"] = "1"
        self.dashboard: subprocess.Popen[bytes] | None = None

    @cached_property
    def api(self) -> Client:
        return self.client()

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_dashboard(self) -> None:
        log = self.home / "dashboard.log"
        with log.open("ab") as output:
            self.dashboard = subprocess.Popen(
                [sys.executable, "-m", "dashboard"],
                env=self.environment,
                stdout=output,
                stderr=output,
                cwd=self.home.parent,
            )
        until(
            lambda: answers(f"{self.dashboard_url}/_stcore/health"), "the dashboard is up", log.read_text, timeout_s=60
        )

    def leave(self) -> None:
        super().leave()
        if self.dashboard is not None:
            self.dashboard.terminate()
            self.dashboard.wait(30)

    def train(self, **params: object) -> str:
        """Submit a job that runs until it is ended."""
        wanted = {"hookpoint": HOOKPOINT, "batch_size": 256, "steps": 1_000_000, "k": 4, "log_every_steps": 5}
        inputs = {"model": MODEL, "dataset": DATASET, "held_out_tokens": 512, "buffer_tokens": 4096}
        return str(self.api.submit("train_sae", {**inputs, **wanted, **params}, name="endless").id)

    def cancel(self, job: str) -> None:
        self.api.cancel(job)
        self.api.wait(job, timeout_s=60)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("dashboard") / "home"
    put_inputs(home)
    started = Stack(home)
    try:
        started.start()
        started.start_dashboard()
        yield started
    finally:
        started.leave()


@pytest.fixture
def visit(stack: Stack) -> Iterator[Visit]:
    with browser() as context:
        yield Visit(context.new_page(), stack.dashboard_url)


@pytest.fixture
def job(stack: Stack) -> Iterator[str]:
    """A job that trains until it is ended."""
    started = stack.train()
    stack.api.wait(started, until={JobStatus.RUNNING}, timeout_s=60)
    yield started
    stack.cancel(started)


@pytest.fixture(scope="module")
def watched(stack: Stack) -> Iterator[str]:
    """One running job for all tests that only look; they come last, as it takes all CPU slots."""
    started = stack.train()
    stack.api.wait(started, until={JobStatus.RUNNING}, timeout_s=60)
    yield started
    stack.cancel(started)


def choose(visit: Visit, key: str, value: str) -> None:
    box = visit.page.locator(f".st-key-{key} input").first
    box.click()
    box.fill(value)
    visit.page.get_by_role("option", name=value, exact=True).first.click()


def test_the_first_visit_may_be_a_deep_link(stack: Stack, visit: Visit) -> None:
    visit.open("system")
    expect(visit.page.get_by_role("heading", name="System")).to_be_visible()
    expect(visit.page.get_by_text("orchestrator ready")).to_be_visible()


def test_a_job_is_submitted_watched_and_cancelled_in_the_browser(stack: Stack, visit: Visit) -> None:
    visit.open("submit")
    choose(visit, "train_sae-new-model", MODEL)
    choose(visit, "train_sae-new-dataset", "words.jsonl")
    for key, value in {"hookpoint": "encoder.layer.0", "steps": "1000000", "batch_size": "256", "k": "4"}.items():
        box = visit.page.locator(f".st-key-train_sae-new-{key} input")
        box.fill(value)
        box.press("Tab")
    visit.page.get_by_role("button", name="Submit job").dblclick()
    visit.page.wait_for_url("**/job?job=*")
    visit.wait_for_status("running")
    assert stack.api.jobs(status="running").total == 1, "a double click submits once"
    visit.wait_for_log("loss")
    visit.wait_for_points(5)
    expect(visit.page.locator(".sf-console .sf-connection")).to_have_text("live")
    expect(visit.page.locator(".sf-curves .sf-connection")).to_have_text("live")
    visit.press("do-cancel")
    visit.page.get_by_role("button", name="Cancel it").click()
    visit.wait_for_status("cancelled")
    expect(visit.page.locator(".sf-console .sf-connection")).to_have_text("ended: cancelled")
    assert visit.outside == []
    assert visit.errors == []


def test_another_family_brings_its_own_fields_and_keeps_what_was_filled_in(visit: Visit) -> None:
    visit.open("submit")
    choose(visit, "train_sae-new-model", MODEL)
    choose(visit, "train_sae-new-dataset", "words.jsonl")
    steps = visit.page.locator(".st-key-train_sae-new-steps input")
    steps.fill("1234")
    steps.press("Tab")
    choose(visit, "train_sae-new-family", "standard")
    expect(visit.page.locator(".st-key-train_sae-new-sparsity_coefficient input")).to_be_visible()
    expect(visit.page.locator(".st-key-train_sae-new-k")).to_have_count(0)
    expect(steps).to_have_value("1234")
    visit.page.get_by_role("button", name="Estimate").click()
    expect(visit.page.get_by_role("heading", name="Estimate")).to_contain_text("latents on width 32")
    expect(steps).to_have_value("1234")
    assert visit.errors == []


def test_an_error_of_the_api_stands_at_the_field_it_names(visit: Visit) -> None:
    visit.open("submit")
    choose(visit, "train_sae-new-model", MODEL)
    choose(visit, "train_sae-new-dataset", "words.jsonl")
    box = visit.page.locator(".st-key-train_sae-new-hookpoint input")
    box.fill("not a module!")
    box.press("Tab")
    visit.page.get_by_role("button", name="Submit job").click()
    expect(visit.page.locator(".st-key-train_sae-new-hookpoint ~ * .sf-field-error").first).to_be_visible()
    expect(visit.page.get_by_role("button", name="Submit job")).to_be_enabled()


def test_pause_and_resume_keep_one_log_and_one_curve(stack: Stack, visit: Visit, job: str) -> None:
    visit.open(f"job?job={job}")
    visit.wait_for_points(3)
    visit.press("do-pause")
    visit.wait_for_status("paused")
    points = int(visit.page.locator(".sf-curves").get_attribute("data-points") or 0)
    visit.press("do-resume")
    visit.wait_for_status("running")
    visit.wait_for_log("attempt 2")
    visit.wait_for_points(points + 2)


def test_killing_the_orchestrator_shows_and_heals_without_a_reload(stack: Stack, visit: Visit, job: str) -> None:
    visit.open(f"job?job={job}")
    visit.wait_for_log("loss")
    stack.end(signal.SIGKILL)
    expect(visit.page.get_by_text("The orchestrator is offline")).to_be_visible()
    expect(visit.button("do-cancel")).to_be_disabled()
    stack.start()
    expect(visit.page.get_by_text("The orchestrator is offline")).to_have_count(0)
    expect(visit.page.locator(".sf-console .sf-connection")).to_have_text("live")
    expect(visit.button("do-cancel")).to_be_enabled()
    seen = visit.terminal_text()
    steps = [int(step) for step in re.findall(r" step +(\d+)/", seen)]
    assert steps, "there are steps to compare"
    assert steps == sorted(set(steps)), "no line is lost, repeated or out of order"


def test_the_terminal_says_where_the_quota_dropped_something(stack: Stack, visit: Visit, job: str) -> None:
    with (stack.home / "runs" / job / "1" / "log").open("ab") as log:
        # Long ones, so that what is kept of them fits into what the terminal holds.
        log.write((b"one of many lines " * 60 + b"\n") * 3000)
    until(lambda: stack.api.events(job, types=["log_over_quota"]).items, "the log is cut")
    visit.open(f"job?job={job}")
    visit.wait_for_log("dropped here: the log exceeded its quota")
    visit.wait_for_log("one of many lines")


def test_the_terminal_outlives_reruns_and_searches(visit: Visit, watched: str) -> None:
    visit.open(f"job?job={watched}")
    visit.wait_for_log("loss")
    visit.page.evaluate("document.querySelector('.sf-console').mark = 'the same'")
    visit.press("do-checkpoint")
    visit.page.get_by_role("tab", name="Commands").click()
    expect(visit.page.get_by_role("region", name="Commands")).to_contain_text("applied")
    assert visit.page.evaluate("document.querySelector('.sf-console').mark") == "the same"
    visit.page.get_by_label("Search log").first.fill("loss")
    expect(visit.page.locator(".sf-console .sf-count")).to_contain_text("/")


def test_what_a_job_uses_is_drawn_below_its_log(visit: Visit, watched: str) -> None:
    visit.open(f"job?job={watched}")
    row = visit.page.locator(".sf-resources[data-charts='2']")
    expect(row.get_by_role("img")).to_have_count(2)
    expect(row.get_by_role("img").first).to_have_attribute("aria-label", re.compile(r"CPU over time: .*\d cores"))
    assert visit.errors == []


def test_scrolling_up_is_respected_until_the_end_is_asked_for(visit: Visit, watched: str) -> None:
    visit.open(f"job?job={watched}")
    visit.page.wait_for_function("document.querySelector('.sf-console')?.terminal?.buffer.active.baseY > 30")
    visit.page.locator(".sf-screen").hover()
    visit.page.mouse.wheel(0, -800)
    follow = visit.page.get_by_label("Follow the end of the log")
    expect(follow).to_contain_text("new line")
    at = "document.querySelector('.sf-console').terminal.buffer.active"
    assert visit.page.evaluate(f"{at}.viewportY < {at}.baseY")
    follow.click()
    visit.page.wait_for_function(f"{at}.viewportY === {at}.baseY")


def test_a_browser_that_gets_no_websocket_polls_and_says_so(visit: Visit, watched: str) -> None:
    visit.page.add_init_script(
        """const Real = WebSocket;
        window.WebSocket = class extends Real {
            constructor(url, protocols) {
                if (String(url).includes("/api/")) throw new Error("blocked");
                super(url, protocols);
            }
        };"""
    )
    visit.open(f"job?job={watched}")
    visit.wait_for_log("loss")
    visit.wait_for_points(3)
    expect(visit.page.locator(".sf-console .sf-connection")).to_contain_text("degraded")


def test_every_connection_uses_its_own_ticket_and_no_key_reaches_the_browser(
    stack: Stack, visit: Visit, watched: str
) -> None:
    sent: list[str] = []
    visit.page.on(
        "websocket",
        lambda found: found.on("framesent", lambda frame: sent.append(str(frame))) if "/api/" in found.url else None,
    )
    visit.open(f"job?job={watched}")
    visit.wait_for_log("loss")
    visit.wait_for_points(2)
    tickets = [json.loads(frame)["ticket"] for frame in sent]
    assert len(tickets) == len(set(tickets)) == 2
    assert stack.api.api_key not in visit.page.content()
    assert all(str(stack.api.api_key) not in frame for frame in sent)


def test_the_whole_log_is_downloaded_byte_for_byte(stack: Stack, visit: Visit, watched: str) -> None:
    visit.open(f"job?job={watched}")
    visit.wait_for_log("loss")
    with visit.page.expect_download() as caught:
        visit.press("log-1")
    content = Path(caught.value.path()).read_bytes()
    log = stack.home / "runs" / watched / "1" / "log"
    assert content
    assert log.read_bytes().startswith(content)


def test_links_are_followed_without_a_reload(visit: Visit, watched: str) -> None:
    visit.open()
    # A link that is clicked before the script is there works too, by a reload.
    visit.page.wait_for_selector("html[data-links=followed]", state="attached")
    visit.page.evaluate("window.mark = 'the same page'")
    visit.page.locator(".sf-card .sf-link").first.click()
    visit.wait_for_status("running")
    assert visit.page.evaluate("window.mark") == "the same page"


@pytest.mark.parametrize("width", [1440, 900])
@pytest.mark.parametrize("path", ["", "submit", "job", "system"])
def test_no_page_is_wider_than_the_window(visit: Visit, watched: str, path: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    visit.open(path)
    expect(visit.page.get_by_text("orchestrator ready")).to_have_count(1)
    main = "document.querySelector('[data-testid=stMain]')"
    assert visit.page.evaluate(f"{main}.scrollWidth <= {main}.clientWidth")
