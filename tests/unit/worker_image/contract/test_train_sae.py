"""The parameters of a training: what is refused, and what a grid stands for."""

import pytest
from pydantic import ValidationError

from worker_image.contract.jobs import TrainSaeParams


def params(**changes: object) -> TrainSaeParams:
    return TrainSaeParams.model_validate({"model": "m", "dataset": "d"} | changes)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("k", {"family": "jumprelu", "k": 4}),
        ("target_l0", {"target_l0": 8}),
        ("tied_weights", {"family": "standard", "tied_weights": True}),
        ("skip_share", {"skip_share": 0.1}),
        ("auxk_alpha", {"dead_latents": "none", "auxk_alpha": 0.5}),
        ("auxk_k", {"family": "gated", "auxk_k": 5}),
        ("weight_decay", {"weight_decay": 0.1}),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(field: str, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"{field}: it does nothing with"):
        params(**changes)


def test_auxk_is_refused_where_it_has_no_gradient() -> None:
    with pytest.raises(ValidationError, match="dead_latents: auxk does nothing for family 'gated'"):
        params(family="gated", dead_latents="auxk")


def test_a_dumped_set_of_parameters_is_read_back() -> None:
    made = params(family="standard", target_l0=8, grid={"lr": [1e-3, 1e-4]})
    assert TrainSaeParams.model_validate(made.model_dump(mode="json")) == made


def test_a_grid_stands_for_every_combination_the_last_field_varying_fastest() -> None:
    made = params(grid={"k": [1, 2], "seed": [0, 1]}).variants()
    assert [(variant.k, variant.seed) for variant in made] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(not variant.grid for variant in made)


def test_without_a_grid_there_is_one_variant() -> None:
    made = params()
    assert made.variants() == [made]
    assert made.label(made) == ""


def test_a_variant_is_named_by_what_tells_it_apart() -> None:
    made = params(grid={"k": [1, 2], "lr": [1e-3]})
    assert [made.label(variant) for variant in made.variants()] == ["k=1 lr=0.001", "k=2 lr=0.001"]


def test_an_option_beside_a_grid_of_families_goes_to_those_that_honour_it() -> None:
    made = params(target_l0=8, grid={"family": ["topk", "jumprelu"]}).variants()
    assert [(variant.family, variant.target_l0) for variant in made] == [("topk", None), ("jumprelu", 8)]


def test_combinations_that_come_to_the_same_are_trained_once() -> None:
    made = params(grid={"k": [1, 2], "family": ["topk", "jumprelu"]}).variants()
    assert [(variant.family, variant.k) for variant in made] == [("topk", 1), ("jumprelu", 32), ("topk", 2)]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"model": ["a", "b"]}, "'model' cannot differ"),
        ({"seed": list(range(9)), "k": list(range(1, 9))}, "it makes 72"),
        ({"k": [0]}, "greater than or equal to 1"),
        ({"k": []}, "at least 1 item"),
    ],
)
def test_a_grid_that_cannot_work_is_refused(grid: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        params(grid=grid)
