"""The pages, in process, against a client that answers from memory."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import connection
from dashboard.markup import METRIC_MEANINGS
from orchestrator.domain import EndReason, JobStatus, RetryPolicy
from orchestrator.errors import InvalidInput, StateConflict
from orchestrator.views import (
    ArtifactView,
    CheckpointView,
    CommandView,
    FailureView,
    Feature,
    GpuProcessView,
    GpuView,
    TraceView,
    WaitView,
)
from tests.unit.dashboard.fakes import NOW, FakeClient, html_of, make_job
from worker_image.contract.feature_file import FeatureBody, Histogram

OpenPage = Callable[..., AppTest]
PAGES = ("overview", "submit", "job", "system")


def hold(fake: FakeClient, status: JobStatus = JobStatus.RUNNING, **changes: Any) -> str:
    job = make_job(status, **changes)
    fake.held[job.id] = job
    return str(job.id)


def button(app: AppTest, key: str) -> Any:
    return next(found for found in app.button if found.key == key)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_without_a_job(open_page: OpenPage, name: str) -> None:
    assert not open_page(name).exception


@pytest.mark.parametrize("name", PAGES)
def test_every_page_says_that_the_orchestrator_is_offline(open_page: OpenPage, fake: FakeClient, name: str) -> None:
    fake.away = True
    app = open_page(name)
    assert not app.exception
    assert "The orchestrator is offline" in html_of(app)


def test_an_empty_overview_says_what_to_do(open_page: OpenPage) -> None:
    assert "saeforge submit" in html_of(open_page())


def test_a_machine_without_gpus_says_so(open_page: OpenPage) -> None:
    assert "none: jobs run on the CPU" in html_of(open_page())


def test_a_gpu_shows_memory_load_and_who_holds_it(open_page: OpenPage, fake: FakeClient) -> None:
    fake.gpus = [
        GpuView(
            uuid="GPU-1", index=0, name="H200", memory_total_mb=143_360, memory_used_mb=1024, utilization=0.5,
            temperature_c=41, power_w=210, leased_by=[uuid4()], foreign_processes=0,
        )
    ]  # fmt: skip
    assert "H200 · leased · 50 % busy · 41 °C · 210 W" in html_of(open_page())


def test_a_running_job_is_a_card_that_links_to_its_page(open_page: OpenPage, fake: FakeClient) -> None:
    job = hold(fake)
    html = html_of(open_page())
    assert f'href="job?job={job}"' in html
    assert "250 / 1,000 steps · 8 steps/s · ETA 1 min 34 s" in html


def test_a_queued_job_says_why_it_waits(open_page: OpenPage, fake: FakeClient) -> None:
    wait = WaitView(reason="gpu_busy", detail="needs 2 GPUs, 1 is free", position=1, eta_s=90)
    hold(fake, JobStatus.QUEUED, wait=wait, attempts=0)
    html = html_of(open_page())
    assert "gpu busy" in html
    assert "needs 2 GPUs, 1 is free" in html


def test_text_from_outside_is_escaped(open_page: OpenPage, fake: FakeClient) -> None:
    job = hold(fake, name="<script>alert(1)</script>")
    assert "<script>" not in html_of(open_page())
    assert "<script>" not in html_of(open_page("job", job=job))


@pytest.mark.parametrize("status", list(JobStatus))
def test_every_status_has_icon_word_and_colour(status: JobStatus) -> None:
    style = (connection.HERE / "style.css").read_text()
    assert f".sf-badge.sf-{status.value}" in style


def test_what_was_seen_last_stays_while_the_orchestrator_is_away(open_page: OpenPage, fake: FakeClient) -> None:
    hold(fake)
    app = open_page()
    fake.away = True
    html = html_of(app.run())
    assert "The orchestrator is offline" in html
    assert "layer three" in html


def test_a_page_recovers_by_itself(open_page: OpenPage, fake: FakeClient) -> None:
    fake.away = True
    app = open_page("submit")
    fake.away = False
    assert "offline" not in html_of(app.run())


def test_a_failed_run_is_listed_with_the_first_line_of_its_reason(open_page: OpenPage, fake: FakeClient) -> None:
    failure = FailureView(reason=EndReason.USER_ERROR, message="no such model\nTraceback", field=None, suggestion=None)
    hold(fake, JobStatus.FAILED, failure=failure)
    html = html_of(open_page())
    assert "<small>no such model</small>" in html
    assert "Traceback" not in html


def test_runs_of_one_name_are_told_apart_by_their_ids(open_page: OpenPage, fake: FakeClient) -> None:
    ids = [hold(fake, JobStatus.COMPLETED), hold(fake, JobStatus.COMPLETED)]
    html = html_of(open_page())
    assert all(f"<small>{job[:8]}</small>" in html for job in ids)


@pytest.mark.parametrize("name", ["overview", "system"])
def test_the_disk_says_what_is_free(open_page: OpenPage, name: str) -> None:
    assert "of 62.5 GiB</span><b>29.3 GiB free</b>" in html_of(open_page(name))


def test_a_trained_sae_names_its_job_and_what_it_was_trained_on(open_page: OpenPage, fake: FakeClient) -> None:
    job = hold(fake, params={"model": "tiny", "hookpoint": "encoder.layer.0"})
    fake.saes = [
        ArtifactView(
            attempt=1, path="sae.safetensors", kind="sae", size_bytes=10, digest="sha256:0",
            created_at=make_job().created_at,
            url=f"/api/jobs/{job}/artifacts/sae.safetensors?attempt=1",
        )
    ]  # fmt: skip
    html = html_of(open_page("system"))
    assert "layer three</a>" in html
    assert "tiny<small>encoder.layer.0</small>" in html


def fill(app: AppTest, **answers: Any) -> None:
    for name, value in answers.items():
        for kind in (app.selectbox, app.number_input, app.text_input, app.text_area):
            for widget in kind:
                if widget.key and widget.key.endswith(f"-new-{name}"):
                    widget.set_value(value)


def test_the_form_submits_what_was_asked_for(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, model="tiny", dataset="books", k=16, lr="3e-4", name="mine")
    button(app, "send").click().run()
    assert fake.submissions[0]["params"] == {"model": "tiny", "dataset": "books", "k": 16, "lr": 3e-4}
    assert fake.submissions[0]["name"] == "mine"


def test_a_submitted_job_opens_its_page(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, model="tiny", dataset="books", name="mine")
    button(app, "send").click().run()
    assert [str(job.id) for job in fake.held.values()] == [app.query_params["job"]]
    assert "<h1>mine</h1>" in html_of(app)


def test_a_missing_answer_is_marked_and_nothing_is_sent(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, dataset="books")
    button(app, "send").click().run()
    assert "This is needed." in html_of(app)
    assert not fake.submissions


def test_the_error_at_the_button_names_the_fields_and_where_they_hide(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, dataset="books", lr="fast", beta2="most")
    button(app, "send").click().run()
    assert "Correct model, lr, beta2 (under Optimisation)." in html_of(app)
    assert {found.label.split()[0]: found.proto.expanded for found in app.expander}["Optimisation"]


def asked_for(app: AppTest) -> set[str]:
    """Names of the fields that are on the page."""
    widgets = [*app.selectbox, *app.number_input, *app.text_input, *app.text_area, *app.checkbox, *app.multiselect]
    return {widget.key.split("-new-")[1] for widget in widgets if widget.key and "-new-" in widget.key}


def test_the_form_asks_only_for_what_the_chosen_family_honours(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    assert "k" in asked_for(app)
    assert not {"l1_recipe", "sparsity_coefficient", "tied_weights"} & asked_for(app)
    fill(app, family="standard")
    app.run()
    assert {"l1_recipe", "sparsity_coefficient"} <= asked_for(app)
    assert not {"k", "multi_topk", "tied_weights"} & asked_for(app)
    fill(app, l1_recipe="unit_norm")
    app.run()
    assert "tied_weights" in asked_for(app)
    fill(app, model="tiny", dataset="books")
    button(app, "send").click().run()
    assert fake.submissions[0]["params"] == {
        "model": "tiny",
        "dataset": "books",
        "family": "standard",
        "l1_recipe": "unit_norm",
    }


def test_trackers_are_picked_and_bring_their_own_fields(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    assert "mlflow_uri" not in asked_for(app)
    next(found for found in app.multiselect if found.label == "trackers").set_value(["mlflow"]).run()
    assert "mlflow_uri" in asked_for(app)
    fill(app, model="tiny", dataset="books")
    button(app, "send").click().run()
    assert fake.submissions[0]["params"]["trackers"] == ["mlflow"]


def test_an_estimate_is_shown_without_submitting(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, model="tiny", dataset="books", k=16)
    button(app, "estimate").click().run()
    assert "6,144 latents on width 768, on cpu" in html_of(app)
    assert "Set buffer_tokens to 65536 (saves 1.5 GB)." in html_of(app)
    assert fake.calls == [("estimate", {"model": "tiny", "dataset": "books", "k": 16})]
    assert not fake.submissions


def test_an_estimate_of_what_cannot_be_read_marks_it(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, model="tiny", dataset="books", lr="fast")
    button(app, "estimate").click().run()
    assert "is not a number" in html_of(app)
    assert not fake.calls


def test_an_error_of_the_api_stands_at_its_field_with_the_remedy(open_page: OpenPage, fake: FakeClient) -> None:
    fake.refusal = InvalidInput("params.k: must be below d_sae", field="params.k", suggestion="lower k")
    app = open_page("submit")
    fill(app, model="tiny", dataset="books")
    button(app, "send").click().run()
    assert '<div class="sf-field-error" role="alert">must be below d_sae <span>lower k</span></div>' in html_of(app)
    assert not button(app, "send").disabled


def test_repeating_a_submission_that_got_no_answer_carries_the_same_key(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, model="tiny", dataset="books")
    fake.refusal = StateConflict("no answer")
    button(app, "send").click().run()
    button(app, "send").click().run()
    keys = [submission["idempotency_key"] for submission in fake.submissions]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_an_edited_submission_carries_another_key(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit")
    fill(app, model="tiny", dataset="books")
    fake.refusal = StateConflict("no answer")
    button(app, "send").click().run()
    fill(app, k=8)
    button(app, "send").click().run()
    assert len({submission["idempotency_key"] for submission in fake.submissions}) == 2


def test_a_clone_starts_with_the_parameters_of_its_source(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("submit", clone=hold(fake))
    button(app, "send").click().run()
    assert fake.submissions[0]["params"] == {"model": "tiny", "dataset": "books", "k": 16}
    assert fake.submissions[0]["name"] == "layer three copy"


def test_a_clone_is_tried_again_as_its_source_is_and_may_wait_when_it_fails(
    open_page: OpenPage, fake: FakeClient
) -> None:
    app = open_page("submit", clone=hold(fake, retry=RetryPolicy(max_retries=7)))
    choice = next(found for found in app.selectbox if found.label == "when it fails")
    choice.set_value("pause")
    button(app, "send").click().run()
    assert fake.submissions[0]["retry"] == RetryPolicy(max_retries=7, on_failure="pause")


def test_actions_follow_what_the_job_allows(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("job", job=hold(fake, available_actions=["pause", "cancel"]))
    enabled = {found.key for found in app.button if found.key.startswith("do-") and not found.disabled}
    assert enabled == {"do-pause", "do-cancel"}


def test_pause_is_asked_for_at_once(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("job", job=hold(fake))
    button(app, "do-pause").click().run()
    assert [call[0] for call in fake.calls] == ["pause"]


def live_job(fake: FakeClient) -> str:
    params = {"model": "tiny", "lr": None, "log_every_steps": 10, "k": 16}
    return hold(fake, params=params, available_actions=["set_parameters"])


def test_a_running_jobs_live_parameters_are_asked_for_as_they_are_in_force(
    open_page: OpenPage, fake: FakeClient
) -> None:
    fake.in_force = {"lr": 0.001}
    app = open_page("job", job=live_job(fake))
    button(app, "do-set_parameters").click().run()
    shown = {found.key: found.value for found in app.text_input if found.key.startswith("live-")}
    assert shown == {"live-lr": "0.001", "live-log_every_steps": "10"}
    assert button(app, "live-apply").disabled


def dialog(fake: FakeClient, **texts: str) -> AppTest:
    """The dialog alone, with these texts typed into it: a test draws the whole page anew, which closes dialogs."""

    def page(job: object) -> None:
        from dashboard.steering import change_parameters

        change_parameters(job)

    app = AppTest.from_function(page, args=(fake.job(live_job(fake)),)).run()
    for name, text in texts.items():
        next(found for found in app.text_input if found.key == f"live-{name}").set_value(text).run()
    return app


def test_a_change_shows_what_differs_before_it_is_asked_for(fake: FakeClient) -> None:
    app = dialog(fake, lr="1e-4")
    assert "What differs" in html_of(app)
    assert not fake.calls
    button(app, "live-apply").click().run()
    assert fake.calls == [("set_parameters", {"lr": 1e-4})]


def test_a_change_that_is_refused_says_why(fake: FakeClient) -> None:
    fake.refusal_of_changes = InvalidInput("params.lr: too high", field="params.lr")
    assert "oo high" in dialog(fake, lr="7").error[0].value


def test_the_best_checkpoint_is_marked(open_page: OpenPage, fake: FakeClient) -> None:
    fake.kept = [
        CheckpointView(
            attempt=1, name=name, step=1, loss=0.5, held_out_loss=0.25, best=best, size_bytes=1, digest="sha256:0",
            reason="interval", created_at=NOW, path="/",
        )
        for name, best in (("step_1", False), ("step_2", True))
    ]  # fmt: skip
    html = html_of(open_page("job", job=hold(fake)))
    assert "step_2 ★ best" in html
    assert "step_1 ★" not in html


@pytest.mark.parametrize("action", ["cancel", "stop", "purge"])
def test_what_cannot_be_undone_is_asked_about_first(open_page: OpenPage, fake: FakeClient, action: str) -> None:
    app = open_page("job", job=hold(fake, available_actions=[action]))
    button(app, f"do-{action}").click().run()
    assert button(app, "confirm-yes").label.endswith(" it")
    assert not fake.calls


def test_a_refused_action_says_why(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("job", job=hold(fake))
    fake.refusal = StateConflict("the job is already over")
    button(app, "do-pause").click().run()
    assert app.toast[0].value == "Pause: The job is already over."


def test_nothing_can_be_done_while_the_orchestrator_is_away(open_page: OpenPage, fake: FakeClient) -> None:
    app = open_page("job", job=hold(fake))
    fake.away = True
    app.run()
    assert all(found.disabled for found in app.button if found.key.startswith("do-"))
    assert "The orchestrator is offline" in html_of(app)


def test_a_command_that_was_not_answered_is_shown_as_requested(open_page: OpenPage, fake: FakeClient) -> None:
    job = make_job()
    command = CommandView(
        id=uuid4(), type="pause", attempt=1, requested_at=job.created_at, status="requested", settled_at=None, detail=""
    )
    app = open_page("job", job=hold(fake, commands=[command]))
    assert "Requested, not yet applied: pause" in html_of(app)


def test_the_figures_of_a_training_explain_themselves(open_page: OpenPage, fake: FakeClient) -> None:
    html = html_of(open_page("job", job=hold(fake)))
    assert all(meaning in html for meaning in METRIC_MEANINGS.values())


def test_a_job_that_writes_for_tensorboard_links_to_its_runs_there(open_page: OpenPage, fake: FakeClient) -> None:
    url = "http://boards.example/?runFilter=x#timeseries"
    app = open_page("job", job=hold(fake, tensorboard_url=url, tensorboard_logdir="/home/runs/x"))
    assert [(found.proto.label, found.proto.url) for found in app.get("link_button")] == [("TensorBoard", url)]
    assert "tensorboard --logdir /home/runs/x" in html_of(app)
    app = open_page("job", job=hold(fake))
    assert not app.get("link_button")
    assert "tensorboard" not in html_of(app).lower()


def test_a_failed_job_tells_reason_and_advice(open_page: OpenPage, fake: FakeClient) -> None:
    failure = FailureView(
        reason=EndReason.CUDA_OOM, message="out of memory", field="batch_size", suggestion="halve batch_size"
    )
    html = html_of(open_page("job", job=hold(fake, JobStatus.FAILED, failure=failure, available_actions=["restart"])))
    assert "Failed: cuda oom" in html
    assert "halve batch_size" in html


def test_a_job_that_paused_when_it_failed_tells_how_to_go_on(open_page: OpenPage, fake: FakeClient) -> None:
    failure = FailureView(reason=EndReason.USER_ERROR, message="no more disk", field=None, suggestion=None)
    html = html_of(open_page("job", job=hold(fake, JobStatus.PAUSED, failure=failure, available_actions=["resume"])))
    assert "Paused, as it failed: user error" in html
    assert "Its state is kept" in html


def test_an_unknown_job_says_so(open_page: OpenPage) -> None:
    assert "There is no such job" in html_of(open_page("job", job=str(uuid4())))


def test_without_an_id_the_newest_job_is_shown_and_named_in_the_address(open_page: OpenPage, fake: FakeClient) -> None:
    job = hold(fake)
    assert open_page("job").query_params["job"] == job


def test_the_system_page_tells_how_gpus_are_and_who_is_on_them(open_page: OpenPage, fake: FakeClient) -> None:
    job = hold(fake)
    own = GpuProcessView(pid=11, name="python", memory_mb=900, job_id=UUID(job), foreign=False)
    other = GpuProcessView(pid=12, name="<games>", memory_mb=None, job_id=None, foreign=True)
    fake.gpus = [
        GpuView(
            uuid="GPU-1", index=0, name="H200", memory_total_mb=143_360, memory_used_mb=1024, utilization=0.5,
            temperature_c=41, power_w=210, power_limit_w=700, leased_by=[UUID(job)], foreign_processes=1,
            throttling=["power limit"], processes=[own, other],
        ),
        GpuView(
            uuid="GPU-2", index=1, name="H200", memory_total_mb=143_360, memory_used_mb=0, utilization=None,
            temperature_c=None, power_w=None, leased_by=[], foreign_processes=0, lost=True, problems=["off the bus"],
        ),
    ]  # fmt: skip
    html = html_of(open_page("system"))
    for words in ("210 / 700 W", "power limit", "from outside", "&lt;games&gt;", "GPU 1 is lost", "off the bus"):
        assert words in html, words


def test_the_system_page_tells_the_size_of_the_activation_cache(open_page: OpenPage) -> None:
    html = html_of(open_page("system"))
    assert "Activation cache" in html
    assert "3 entries" in html
    assert "4.0 GB / 100 GB" in html


def test_the_system_page_draws_the_last_hour(open_page: OpenPage, fake: FakeClient) -> None:
    end = NOW.timestamp()
    fake.traces = {"cpu_percent": TraceView(times=[end - 20, end - 10], values=[10, 90])}
    html = html_of(open_page("system"))
    assert "The last hour" in html
    assert 'aria-label="CPU: 10 % to 90 %, now 90 %"' in html
    fake.traces = {}
    assert "The last hour" not in html_of(open_page("system"))


def test_a_features_job_shows_its_features(open_page: OpenPage, fake: FakeClient) -> None:
    job = hold(fake, JobStatus.COMPLETED, type="sae_features", params={"type": "sae_features", "sae": "job:x"})
    fake.a_feature = Feature(
        latent=9, density=0.5, mean=1, max=2, peak="peak word", texts={},
        body=FeatureBody(firings=1, histogram=Histogram(width=1, counts=[1]), groups=[]),
    )  # fmt: skip
    html = html_of(open_page("job", job=job))
    assert "peak word" in html
    assert "Latent 9" in html
    assert ("features", (0, "-density")) in fake.calls


def test_a_job_tells_the_gpu_hours_it_took_and_what_they_cost(open_page: OpenPage, fake: FakeClient) -> None:
    attempt = {
        "number": 1, "executor": "docker", "handle": "c1", "gpus": ["GPU-a"], "resume_from": None, "created_at": NOW,
        "started_at": NOW, "ended_at": None, "exit_code": None, "end_reason": None, "detail": None,
    }  # fmt: skip
    html = html_of(open_page("job", job=hold(fake, attempt_list=[attempt], gpu_hours=2.5, cost=7.5)))
    assert "<dt>GPU hours</dt><dd>2.50</dd>" in html
    assert "<dt>cost</dt><dd>7.50</dd>" in html
