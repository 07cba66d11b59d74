"""Draws the fields of ``forms`` with Streamlit's widgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import forms, markup

PLACEHOLDERS = {
    "model": "Choose, or type a path or hub id",
    "dataset": "Choose, or type a path",
    "sae": "Choose, or type job: and an id, or a path",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one answer."""

    message: str
    suggestion: str | None = None


def ask(field: forms.Field, key: str, value: Any, choices: Sequence[str] = ()) -> Any:
    """Draw one field and return its raw answer. ``choices`` are the names a reference may pick from."""
    label = f"{field.label} *" if field.required else field.label
    shown = forms.shown(field, value)
    common: dict[str, Any] = {"key": key, "help": field.help or None}
    match field.kind:
        case "boolean":
            return st.checkbox(label, value=bool(shown), **common)
        case "choice":
            index = field.choices.index(shown) if shown in field.choices else None
            return st.selectbox(label, field.choices, index=index, **common)
        case "several":
            return st.multiselect(label, field.choices, default=shown, **common)
        case "reference":
            names = list(choices) if shown is None or shown in choices else [shown, *choices]
            return st.selectbox(
                label,
                names,
                index=None if shown is None else names.index(shown),
                accept_new_options=True,
                placeholder=PLACEHOLDERS[field.reference or "model"],
                **common,
            )
        case "integer":
            low, high = forms.integer_bounds(field)
            return st.number_input(
                label, min_value=low, max_value=high, value=shown, step=1, placeholder=empty_means(field), **common
            )
        case "mapping":
            example = "k=[16, 32, 64]" if field.json_values else "NAME=VALUE"
            return st.text_area(label, value=shown, height=90, placeholder=example, **common)
        case "words":
            return st.text_area(label, value=shown, height=90, placeholder="sh -c 'echo hello'", **common)
        case _:
            return st.text_input(
                label, value=shown, max_chars=field.max_length, placeholder=empty_means(field), **common
            )


def empty_means(field: forms.Field) -> str:
    """What an empty field stands for, from its own description: "...; d_in / 2 when empty."."""
    text = field.description
    if not field.nullable or not text.endswith("when empty."):
        return ""
    return text.removesuffix("when empty.").rsplit(";", 1)[-1].strip()


def grid(
    fields: Sequence[forms.Field],
    *,
    prefix: str,
    initial: Mapping[str, Any],
    problems: Mapping[str, Problem],
    choices: Mapping[str, Sequence[str]],
    columns: int,
) -> dict[str, Any]:
    """Draw fields in rows of ``columns``; every problem stands under its field. Returns name -> raw answer."""
    answers: dict[str, Any] = {}
    for start in range(0, len(fields), columns):
        row = st.columns(columns, vertical_alignment="top")
        for field, column in zip(fields[start : start + columns], row, strict=False):
            with column:
                value = initial.get(field.name, field.default)
                answers[field.name] = ask(field, f"{prefix}{field.name}", value, choices.get(field.reference or "", ()))
                show_problem(problems.get(field.name))
    return answers


def show_problem(problem: Problem | None) -> None:
    if problem:
        st.html(markup.field_error(problem.message, problem.suggestion))
