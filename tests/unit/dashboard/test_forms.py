"""The form of a job type, from its schema and back."""

from typing import Any

import pytest

from dashboard import forms
from worker_image.contract.jobs import ContainerParams, TrainSaeParams, job_params

TRAIN = {field.name: field for field in forms.fields(TrainSaeParams.model_json_schema())}
CONTAINER = {field.name: field for field in forms.fields(ContainerParams.model_json_schema())}


def only(spec: dict[str, Any], required: bool = False) -> forms.Field:
    return forms.fields({"properties": {"x": spec}, "required": ["x"] if required else []})[0]


def test_the_discriminator_is_not_asked_for() -> None:
    assert "type" not in TRAIN
    assert "type" not in CONTAINER


def test_required_fields_are_basic_and_come_from_the_schema() -> None:
    assert {name for name, field in TRAIN.items() if field.required} == {"model", "dataset"}
    assert not TRAIN["model"].advanced


def test_a_field_with_a_recommended_range_is_basic_and_says_the_range() -> None:
    assert not TRAIN["k"].advanced
    assert TRAIN["k"].recommended == (16, 128)
    assert "Recommended: 16 to 128." in TRAIN["k"].help


def test_a_field_marked_basic_is_basic() -> None:
    assert not only({"type": "string", "x-basic": True}).advanced


def test_any_other_field_is_advanced() -> None:
    assert TRAIN["beta2"].advanced


def test_references_say_what_they_pick() -> None:
    assert (TRAIN["model"].kind, TRAIN["model"].reference) == ("reference", "model")
    assert (TRAIN["dataset"].kind, TRAIN["dataset"].reference) == ("reference", "dataset")


def test_anyof_null_makes_a_field_nullable_and_keeps_its_bounds() -> None:
    lr = TRAIN["lr"]
    assert lr.nullable
    assert (lr.kind, lr.minimum, lr.maximum, lr.default) == ("number", 1e-6, 0.1, None)


def test_an_enumeration_becomes_a_choice() -> None:
    assert TRAIN["lr_schedule"].kind == "choice"
    assert TRAIN["lr_schedule"].choices == ("constant", "linear", "cosine", "exponential")


def test_help_tells_meaning_and_accepted_range() -> None:
    assert TRAIN["beta2"].help == "Adam's second-moment decay. Accepted: from 0 below 1."


def test_a_reference_to_a_definition_is_looked_up() -> None:
    schema = {
        "$defs": {"Mode": {"type": "string", "enum": ["a", "b"]}},
        "properties": {"x": {"$ref": "#/$defs/Mode", "default": "a"}},
    }
    field = forms.fields(schema)[0]
    assert (field.kind, field.choices, field.default) == ("choice", ("a", "b"), "a")


def test_bounds_wider_than_a_browser_holds_are_cut() -> None:
    assert forms.integer_bounds(TRAIN["seed"]) == (0, forms.SAFE_INTEGER)


def test_exclusive_bounds_of_integers_move_inwards() -> None:
    field = only({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10})
    assert forms.integer_bounds(field) == (1, 9)


@pytest.mark.parametrize("form", [TRAIN, CONTAINER])
def test_every_field_is_described(form: dict[str, forms.Field]) -> None:
    assert [name for name, field in form.items() if not field.description] == []


@pytest.mark.parametrize(
    "given",
    [
        {"type": "train_sae", "model": "m", "dataset": "d", "lr": 3e-5, "checkpoint_every_steps": None, "k": 64},
        {"type": "container", "image": "busybox", "command": ["sh", "-c", "echo 'a b'"], "env": {"A": "1=2"}},
    ],
)
def test_what_a_form_shows_reads_back_as_the_same_parameters(given: dict[str, Any]) -> None:
    model = job_params.validate_python(given)
    form = list((TRAIN if model.type == "train_sae" else CONTAINER).values())
    dumped = model.model_dump()
    answers = {field.name: forms.shown(field, dumped[field.name]) for field in form}
    assert job_params.validate_python({"type": model.type, **forms.params(form, answers)}) == model


def test_what_equals_its_default_is_left_out() -> None:
    answers = {"model": "m", "dataset": "d", "k": 32, "lr": "", "optimizer": "adam"}
    assert forms.params(list(TRAIN.values()), answers) == {"model": "m", "dataset": "d"}


def test_emptying_a_nullable_field_with_a_default_means_null() -> None:
    answers = {"model": "m", "dataset": "d", "checkpoint_every_steps": None}
    assert forms.params(list(TRAIN.values()), answers)["checkpoint_every_steps"] is None


def test_every_unreadable_answer_is_reported_at_its_field() -> None:
    with pytest.raises(forms.BadAnswer) as caught:
        forms.params(list(TRAIN.values()), {"model": " ", "dataset": "d", "lr": "fast", "k": "3.5"})
    assert caught.value.problems == {
        "model": "This is needed.",
        "lr": "'fast' is not a number; write e.g. 0.001, 1e-3 or 524288.",
        "k": "'3.5' is not a whole number.",
    }


def test_an_unclosed_quotation_mark_is_reported() -> None:
    with pytest.raises(forms.BadAnswer, match="command: A quotation mark is not closed"):
        forms.params([CONTAINER["command"]], {"command": "sh -c 'oops"})


def test_a_mapping_line_without_a_sign_is_reported() -> None:
    with pytest.raises(forms.BadAnswer, match="'PATH' has no '='"):
        forms.params([CONTAINER["env"]], {"env": "A=1\nPATH"})


def test_numbers_are_written_as_a_person_would() -> None:
    assert [forms.readable(n) for n in (32, 524288, 0.03125, 6.25e-10, 1e-6)] == [
        "32",
        "524,288",
        "0.03125",
        "6.25e-10",
        "1e-6",
    ]


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ("params.k", "k"),
        ("params.train_sae.k", "k"),
        ("k", "k"),
        ("params.command.0", "command"),
        ("params.command[0]", "command"),
        ("resources.gpus", "gpus"),
        ("type", None),
        (None, None),
    ],
)
def test_an_api_error_is_placed_at_the_field_it_names(named: str | None, field: str | None) -> None:
    assert forms.place(named, {"k", "command", "gpus"}) == field


# Fields that mean something only with others


def conditional(*names: str, **answers: object) -> set[str]:
    """Which of these fields of a training apply with these answers."""
    applying = {field.name for field in forms.applying(list(TRAIN.values()), answers)}
    return applying & set(names)


def test_a_field_applies_where_its_condition_is_met() -> None:
    assert conditional("k", "target_l0") == {"k"}
    assert conditional("k", "target_l0", family="gated") == {"target_l0"}


def test_a_field_applies_only_where_what_decides_about_it_applies_itself() -> None:
    chosen = {"l1_recipe": "unit_norm"}
    assert conditional("tied_weights", family="standard", **chosen) == {"tied_weights"}
    assert conditional("tied_weights", family="topk", **chosen) == set()


def test_an_empty_answer_counts_as_none() -> None:
    chosen = {"skip_connection": True}
    assert conditional("skip_share", target_hookpoint="", **chosen) == {"skip_share"}
    assert conditional("skip_share", target_hookpoint="layers.1", **chosen) == set()


def test_of_several_choices_one_is_enough() -> None:
    assert conditional("mlflow_uri", trackers=["wandb", "mlflow"]) == {"mlflow_uri"}
    assert conditional("mlflow_uri", trackers=["wandb"]) == set()


def test_conditions_on_what_is_varied_are_met() -> None:
    varied = forms.applying(list(TRAIN.values()), {}, {"family"})
    assert {"k", "target_l0", "l1_recipe"} <= {field.name for field in varied}


def test_the_fields_that_decide_are_told() -> None:
    assert {"family", "dead_latents", "trackers", "l1_recipe"} <= forms.controls(TRAIN.values())
    assert "k" not in forms.controls(TRAIN.values())


def test_fields_stand_in_the_sections_of_the_schema_in_its_order() -> None:
    fields = [
        only({"type": "string", "x-group": "B"}),
        only({"type": "string"}),
        only({"type": "string", "x-group": "B"}),
    ]
    assert {title: len(held) for title, held in forms.sections(fields).items()} == {"B": 2, "Advanced": 1}
    assert next(iter(forms.sections(fields))) == "B"


def test_a_list_of_given_choices_is_picked_from() -> None:
    field = TRAIN["trackers"]
    assert (field.kind, field.choices) == ("several", ("tensorboard", "wandb", "mlflow"))
    assert forms.shown(field, None) == []
    assert forms.params([field], {"trackers": ["wandb"]}) == {"trackers": ["wandb"]}
    assert forms.params([field], {"trackers": []}) == {}
