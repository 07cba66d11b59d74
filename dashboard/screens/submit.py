"""Submit: a form for each job type, drawn from its schema."""

import json
from html import escape
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import streamlit as st

from dashboard import connection, forms, markup, widgets
from dashboard.widgets import Problem
from orchestrator.domain import Resources
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.views import Inventory, JobDetail, JobTypeView

ABOUT_JOB = {"name", "owner", "priority", "tags"}
RESOURCES = forms.fields(Resources.model_json_schema())
COLUMNS = 3


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
    """Name, owner, priority and tags."""
    name_at, owner_at, priority_at, tags_at = st.columns([2, 1, 1, 2])
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
    return {"name": name.strip() or None, "owner": owner.strip() or "default", "priority": priority, "tags": tags}


def place_error(error: OrchestratorError, form: list[forms.Field]) -> dict[str, Problem]:
    """The problem under the name of its field; under "" when the form has no such field."""
    resources = {field.name for field in RESOURCES}
    named = error.field or ""
    names = resources if named.startswith("resources") else {field.name for field in form} | ABOUT_JOB | resources
    field = forms.place(named, names) or ""
    prefix = "" if field or not named or error.message.startswith(named) else f"{named}: "
    message = error.message.removeprefix(f"{named}: ").removeprefix(f"{field}: ") if field else error.message
    return {field: Problem(prefix + message, error.suggestion)}


def send(
    view: JobTypeView, form: list[forms.Field], answers: dict[str, Any], about: dict[str, Any], limits: dict[str, Any]
) -> tuple[JobDetail | None, dict[str, Problem]]:
    """Submit once. Returns the job, or the problems by field."""
    problems: dict[str, Problem] = {}
    read: list[dict[str, Any]] = []
    for fields, given in ((form, answers), (RESOURCES, limits)):
        try:
            read.append(forms.params(fields, given))
        except forms.BadAnswer as error:
            problems |= {name: Problem(text) for name, text in error.problems.items()}
    if problems:
        return None, problems
    params, resources = read
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
    hidden = {field.name: "Advanced" for field in form if field.advanced} | {
        field.name: "Resources" for field in RESOURCES
    }
    labels = [name.replace("_", " ") for name in problems]
    return ", ".join(
        f"{label} (under {hidden[name]})" if name in hidden else label
        for name, label in zip(problems, labels, strict=True)
    )


def begin() -> None:
    st.session_state["submitting"] = True


def draw(view: JobTypeView, found: Inventory, source: JobDetail | None) -> None:
    form = forms.fields(view.parameters)
    source = source if source and source.type == view.type else None
    initial = source.params if source else {}
    prefix = f"{view.type}-{source.id if source else 'new'}-"
    problems: dict[str, Problem] = st.session_state.get("problems", {})
    choices = {"model": [item.name for item in found.models], "dataset": [item.name for item in found.datasets]}
    submitting: bool = st.session_state.get("submitting", False)
    required = [field for field in form if field.required]
    basic = [field for field in form if not field.required and not field.advanced]
    advanced = [field for field in form if field.advanced]

    def grid(fields: list[forms.Field], columns: int, start: dict[str, Any], tag: str = "") -> dict[str, Any]:
        return widgets.grid(
            fields, prefix=prefix + tag, initial=start, problems=problems, choices=choices, columns=columns
        )

    with st.form(f"form-{prefix}", enter_to_submit=False, border=False):
        answers = grid(required, min(2, max(1, len(required))), initial)
        answers |= grid(basic, COLUMNS, initial)
        if advanced:
            faulty = any(field.name in problems for field in advanced)
            with st.expander(f"Advanced ({len(advanced)})", expanded=faulty, key=f"{prefix}advanced"):
                answers |= grid(advanced, COLUMNS, initial)
        st.html(markup.section("Job and resources"))
        about = about_job(prefix, source, problems)
        faulty = any(field.name in problems for field in RESOURCES)
        with st.expander("Resources", expanded=faulty, key=f"{prefix}resources"):
            limits = grid(RESOURCES, COLUMNS, source.resources.model_dump() if source else {}, tag="resources-")
        if problem := problems.get(""):
            st.html(markup.banner("Not submitted", problem.message, problem.suggestion or "", kind="error"))
        elif problems:
            st.html(markup.banner("Not submitted", f"Correct {marked(problems, form)}.", kind="error"))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.form_submit_button(
                "Submit job", type="primary", icon=":material/send:", disabled=submitting, on_click=begin, key="send"
            )
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
