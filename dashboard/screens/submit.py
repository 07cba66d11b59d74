"""Submit: a form for each job type, drawn from its schema."""

import json
from dataclasses import dataclass
from html import escape
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import streamlit as st

from dashboard import connection, forms, markup, widgets
from dashboard.widgets import Problem
from orchestrator.domain import Resources, RetryPolicy
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.views import EstimateView, Inventory, JobDetail, JobTypeView

ABOUT_JOB = {"name", "owner", "priority", "tags"}
RESOURCES = forms.fields(Resources.model_json_schema())
COLUMNS = 3
MORE_CHOICES = "More choices"
"""The section of those that decide which other fields there are."""
ESTIMATED = {"train_sae"}
"""Job types whose needs the orchestrator can tell."""


def idempotency_key(draft: UUID, body: dict[str, Any]) -> str:
    """The same draft sent twice is one job; after an edit it is another request."""
    return str(uuid5(uuid5(NAMESPACE_URL, str(draft)), json.dumps(body, sort_keys=True, default=str)))


def cloned() -> JobDetail | None:
    """The job named by ``?clone=``, whose parameters the form starts with."""
    job_id = st.query_params.get("clone")
    if not job_id:
        return None
    try:
        return connection.client().job(job_id)
    except OrchestratorError as error:
        st.html(markup.banner("That job cannot be copied", error.message))
        return None


def chosen_type(types: list[JobTypeView], source: JobDetail | None) -> JobTypeView:
    names = {view.type: view.title for view in types}
    first = source.type if source and source.type in names else types[0].type
    picked = st.segmented_control(
        "Job type", list(names), format_func=names.__getitem__, default=first, required=True, key="type"
    )
    return next(view for view in types if view.type == (picked or first))


def about_job(prefix: str, source: JobDetail | None, problems: dict[str, Problem]) -> dict[str, Any]:
    """Name, owner, priority, tags, and what becomes of it when it fails."""
    name_at, owner_at, priority_at, tags_at, failure_at = st.columns([2, 1, 1, 2, 1])
    with name_at:
        name = st.text_input(
            "name", value=f"{source.name} copy" if source else "", key=f"{prefix}name", max_chars=200,
            placeholder="made from the type", help="What to call the job.",
        )  # fmt: skip
        widgets.show_problem(problems.get("name"))
    with owner_at:
        owner = st.text_input(
            "owner", value=source.owner if source else "default", key=f"{prefix}owner", max_chars=100,
            help="Whose job it is; the list can be filtered by it.",
        )  # fmt: skip
        widgets.show_problem(problems.get("owner"))
    with priority_at:
        priority = st.number_input(
            "priority", -1000, 1000, value=source.priority if source else 0, step=1, key=f"{prefix}priority",
            help="Higher starts earlier.",
        )  # fmt: skip
        widgets.show_problem(problems.get("priority"))
    with tags_at:
        tags = st.multiselect(
            "tags", source.tags if source else [], default=source.tags if source else [], key=f"{prefix}tags",
            accept_new_options=True, placeholder="Type a tag and press Enter", help="Words to find the job by.",
        )  # fmt: skip
        widgets.show_problem(problems.get("tags"))
    with failure_at:
        retry = source.retry if source else RetryPolicy()
        on_failure = st.selectbox(
            "when it fails", ["fail", "pause"], index=["fail", "pause"].index(retry.on_failure),
            key=f"{prefix}on_failure",
            help="Once it is not tried again: end as failed, or wait with its state kept until you resume it.",
        )  # fmt: skip
    return {
        "name": name.strip() or None,
        "owner": owner.strip() or "default",
        "priority": priority,
        "tags": tags,
        "retry": retry.model_copy(update={"on_failure": on_failure}),
    }


def place_error(error: OrchestratorError, form: list[forms.Field]) -> dict[str, Problem]:
    """The problem under the name of its field; under "" when the form has no such field."""
    resources = {field.name for field in RESOURCES}
    named = error.field or ""
    names = resources if named.startswith("resources") else {field.name for field in form} | ABOUT_JOB | resources
    field = forms.place(named, names) or ""
    prefix = "" if field or not named or error.message.startswith(named) else f"{named}: "
    message = error.message.removeprefix(f"{named}: ").removeprefix(f"{field}: ") if field else error.message
    return {field: Problem(prefix + message, error.suggestion)}


def read_answers(
    form: list[forms.Field], answers: dict[str, Any], limits: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Problem]]:
    """Parameters, resources, and what is wrong with the answers, by field."""
    problems: dict[str, Problem] = {}
    read: list[dict[str, Any]] = []
    for fields, given in ((form, answers), (RESOURCES, limits)):
        try:
            read.append(forms.params(fields, given))
        except forms.BadAnswer as error:
            read.append({})
            problems |= {name: Problem(text) for name, text in error.problems.items()}
    return read[0], read[1], problems


def look_ahead(
    view: JobTypeView, form: list[forms.Field], answers: dict[str, Any], limits: dict[str, Any]
) -> tuple[EstimateView | None, dict[str, Problem]]:
    """What the job would take, or the problems by field."""
    params, resources, problems = read_answers(form, answers, limits)
    if problems:
        return None, problems
    try:
        return connection.client().estimate(view.type, params, resources=Resources(**resources)), {}
    except InvalidInput as error:
        return None, place_error(error, form)
    except OrchestratorError as error:
        return None, {"": Problem(error.message, error.suggestion)}


def send(
    view: JobTypeView, form: list[forms.Field], answers: dict[str, Any], about: dict[str, Any], limits: dict[str, Any]
) -> tuple[JobDetail | None, dict[str, Problem]]:
    """Submit once. Returns the job, or the problems by field."""
    params, resources, problems = read_answers(form, answers, limits)
    if problems:
        return None, problems
    body = {"type": view.type, "params": params, "resources": resources, **about}
    draft = st.session_state.setdefault("draft", uuid4())
    try:
        job = connection.client().submit(
            view.type,
            params,
            name=about["name"],
            owner=about["owner"],
            priority=about["priority"],
            tags=about["tags"],
            resources=Resources(**resources),
            retry=about["retry"],
            idempotency_key=idempotency_key(draft, body),
        )
    except InvalidInput as error:
        return None, place_error(error, form)
    except OrchestratorError as error:
        return None, {"": Problem(error.message, error.suggestion)}
    st.session_state["draft"] = uuid4()
    return job, {}


def marked(problems: dict[str, Problem], form: list[forms.Field]) -> str:
    """The labels of the fields with a problem, and the section that hides them, if one does."""
    hidden = {field.name: title for title, fields in forms.sections(_advanced(form)).items() for field in fields}
    hidden |= {field.name: MORE_CHOICES for field in _advanced(form) if field.name in forms.controls(form)}
    hidden |= {field.name: "Resources" for field in RESOURCES}
    labels = [name.replace("_", " ") for name in problems]
    return ", ".join(
        f"{label} (under {hidden[name]})" if name in hidden else label
        for name, label in zip(problems, labels, strict=True)
    )


def _advanced(form: list[forms.Field]) -> list[forms.Field]:
    return [field for field in form if field.advanced]


def begin() -> None:
    st.session_state["submitting"] = True


def ask_estimate() -> None:
    st.session_state["estimating"] = True


@dataclass(frozen=True, slots=True)
class Draft:
    """The form of one job type, as far as it was filled in."""

    prefix: str
    """Of the keys of its widgets."""
    initial: dict[str, Any]
    """What its fields start with, where that is not their default."""
    problems: dict[str, Problem]
    choices: dict[str, list[str]]

    def grid(self, fields: list[forms.Field], columns: int = COLUMNS) -> dict[str, Any]:
        return widgets.grid(
            fields,
            prefix=self.prefix,
            initial=self.initial,
            problems=self.problems,
            choices=self.choices,
            columns=columns,
        )

    def folded(self, title: str, fields: list[forms.Field]) -> dict[str, Any]:
        """The fields in a section that is open only when one of them has a problem."""
        if not fields:
            return {}
        faulty = any(field.name in self.problems for field in fields)
        with st.expander(f"{title} ({len(fields)})", expanded=faulty, key=f"{self.prefix}{title}"):
            return self.grid(fields)

    def controls(self, form: list[forms.Field]) -> dict[str, Any]:
        """Draw the fields that decide which others there are.

        They stand outside the form, for within one an answer changes nothing before it is sent.
        """
        names = forms.controls(form)
        known = {
            field.name: st.session_state.get(f"{self.prefix}{field.name}", self.initial.get(field.name, field.default))
            for field in form
        }
        asked = [field for field in self.applying(form, known) if field.name in names]
        answers = self.grid([field for field in asked if not field.advanced])
        return answers | self.folded(MORE_CHOICES, _advanced(asked))

    def applying(self, form: list[forms.Field], answers: dict[str, Any]) -> list[forms.Field]:
        """The fields that mean something with these answers, and with those that a source's grid varies."""
        return forms.applying(form, answers, self.initial.get("grid") or ())


def draw(view: JobTypeView, found: Inventory, source: JobDetail | None) -> None:
    whole = forms.fields(view.parameters)
    source = source if source and source.type == view.type else None
    draft = Draft(
        prefix=f"{view.type}-{source.id if source else 'new'}-",
        initial=source.params if source else {},
        problems=st.session_state.get("problems", {}),
        choices={
            "model": [item.name for item in found.models],
            "dataset": [item.name for item in found.datasets],
            "sae": list(dict.fromkeys(item.reference for item in found.saes if item.reference)),
        },
    )
    submitting: bool = st.session_state.get("submitting", False)
    decided = draft.controls(whole)
    form = draft.applying(whole, decided)
    open_fields = [field for field in form if field.name not in decided]
    required = [field for field in open_fields if field.required]

    with st.form(f"form-{draft.prefix}", enter_to_submit=False, border=False):
        answers = decided | draft.grid(required, min(2, max(1, len(required))))
        answers |= draft.grid([field for field in open_fields if not field.required and not field.advanced])
        for title, fields in forms.sections(_advanced(open_fields)).items():
            answers |= draft.folded(title, fields)
        st.html(markup.section("Job and resources"))
        about = about_job(draft.prefix, source, draft.problems)
        limits = _limits(draft, source)
        if problem := draft.problems.get(""):
            st.html(markup.banner("Not submitted", problem.message, problem.suggestion or "", kind="error"))
        elif draft.problems:
            st.html(markup.banner("Not submitted", f"Correct {marked(draft.problems, form)}.", kind="error"))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.form_submit_button(
                "Submit job", type="primary", icon=":material/send:", disabled=submitting, on_click=begin, key="send"
            )
            if view.type in ESTIMATED:
                st.form_submit_button("Estimate", icon=":material/calculate:", on_click=ask_estimate, key="estimate")
            if submitting:
                st.html('<span class="sf-note" role="status">Submitting…</span>')
    if submitting:
        # The button above is already drawn disabled; a second click that was faster carries the same key.
        job, st.session_state["problems"] = send(view, form, answers, about, limits)
        st.session_state["submitting"] = False
        if job is None:
            st.rerun()
        st.session_state["notice"] = f"Submitted {job.name}"
        st.switch_page("screens/job.py", query_params={"job": str(job.id)})
    elif st.session_state.pop("estimating", False):
        estimate, st.session_state["problems"] = look_ahead(view, form, answers, limits)
        if estimate is None:
            st.rerun()
        st.html(markup.estimate(estimate))


def _limits(draft: Draft, source: JobDetail | None) -> dict[str, Any]:
    """What the job asks for of the machine."""
    resources = Draft(
        prefix=f"{draft.prefix}resources-",
        initial=source.resources.model_dump() if source else {},
        problems=draft.problems,
        choices={},
    )
    return resources.folded("Resources", RESOURCES)


def page() -> None:
    st.html('<h1 class="sf-title">Submit a job</h1>')
    try:
        types = connection.client().job_types()
        found = connection.client().inventory()
    except OrchestratorError as error:
        connection.wait_for_orchestrator(error)
        return
    source = cloned()
    view = chosen_type(types, source)
    if view.type != st.session_state.get("drawn_type"):
        st.session_state["drawn_type"] = view.type
        st.session_state["problems"] = {}
    about = view.description.split("\n\n", 1)[0]
    st.html(f'<p class="sf-note">{escape(about)} Fields marked * are required.</p>')
    draw(view, found, source)


page()
