"""What a training will take."""

from functools import partial

import pytest

from worker_image.contract.budget import GIB, MIB, Budget, Pool, advice, readable, training_budget
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.model_shape import ModelShape

GPT2 = ModelShape(layers=12, d_model=768, d_inner=3072, vocabulary=50_257, parameters=124_000_000)
LLAMA_1B = ModelShape(layers=16, d_model=2048, d_inner=8192, vocabulary=128_256, parameters=1_236_000_000)
SMALL = ModelShape(layers=2, d_model=8, d_inner=32, vocabulary=100, parameters=2_400)


def asked(**values: object) -> TrainSaeParams:
    return TrainSaeParams.model_validate({"model": "m", "dataset": "d"} | values)


def reckoned(params: TrainSaeParams, shape: ModelShape, *, on_gpu: bool, cached: bool = False) -> Budget:
    return training_budget(params, shape, on_gpu=on_gpu, cached=cached)


def sizes(budget: Budget, pool: Pool) -> dict[str, int]:
    return {part.name: part.size_bytes for part in budget.components if part.pool == pool}


def test_weights_gradients_and_moments_are_sixteen_bytes_a_parameter() -> None:
    found = sizes(reckoned(asked(expansion_factor=4), SMALL, on_gpu=True), "gpu")
    # 32 latents of width 8: two matrices, two biases.
    parameters = 2 * 32 * 8 + 32 + 8
    assert found["SAE weights"] == found["gradients"] == 4 * parameters
    assert found["optimiser moments"] == 8 * parameters


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"family": "gated"}, 2 * 32 * 8 + 3 * 32 + 8),
        ({"family": "jumprelu"}, 2 * 32 * 8 + 2 * 32 + 8),
        ({"family": "standard", "l1_recipe": "unit_norm", "tied_weights": True}, 32 * 8 + 32 + 8),
        ({"target_hookpoint": "layers.1", "skip_connection": True}, 2 * 32 * 8 + 8 * 8 + 32 + 8),
        ({"skip_connection": True}, 2 * 32 * 8 + 8 + 32 + 8),
        ({"grid": {"k": [1, 2, 3]}}, 3 * (2 * 32 * 8 + 32 + 8)),
    ],
    ids=["gated", "jumprelu", "tied", "skip transcoder", "skip", "three at once"],
)
def test_each_family_and_wiring_has_its_own_parameters(options: dict[str, object], parameters: int) -> None:
    found = sizes(reckoned(asked(expansion_factor=4, **options), SMALL, on_gpu=True), "gpu")
    assert found["SAE weights"] == 4 * parameters


@pytest.mark.parametrize(
    ("options", "numbers"),
    [({"optimizer": "adamw"}, 2), ({"optimizer": "signum"}, 1), ({"optimizer": "muon"}, 1)],
    ids=str,
)
def test_each_optimiser_keeps_its_own_moments(options: dict[str, object], numbers: int) -> None:
    found = sizes(reckoned(asked(**options), GPT2, on_gpu=True), "gpu")
    assert found["optimiser moments"] == numbers * found["gradients"]


def test_eight_bits_cost_more_while_they_are_simulated() -> None:
    plain, rounded = (
        sizes(reckoned(asked(weights_dtype=dtype), GPT2, on_gpu=True), "gpu") for dtype in ("float32", "float8_e4m3")
    )
    assert rounded["masters of 8-bit weights"] == 5 * plain["SAE weights"] // 4
    assert "masters of 8-bit weights" not in plain


def test_a_batch_in_parts_needs_the_working_set_of_one() -> None:
    whole, parts = (
        sizes(reckoned(asked(family="standard", batch_size=4096, micro_batch_size=size), GPT2, on_gpu=True), "gpu")
        for size in (None, 1024)
    )
    assert parts["training step"] == whole["training step"] // 4


def test_a_crosscoder_reads_all_of_its_places() -> None:
    budget = reckoned(asked(crosscoder_hookpoints=["layers.1"]), SMALL, on_gpu=False)
    assert (budget.d_in, budget.d_sae) == (16, 64)


def test_without_a_gpu_everything_is_in_main_memory() -> None:
    params = asked()
    on_cpu = reckoned(params, GPT2, on_gpu=False)
    assert on_cpu.total("gpu") == 0
    assert sizes(on_cpu, "host")["language model"] == 4 * GPT2.parameters  # type: ignore[operator]


def test_the_buffer_holds_no_more_than_training_asks_for() -> None:
    found = sizes(reckoned(asked(steps=10, batch_size=64), SMALL, on_gpu=True), "host")
    assert found["activation buffer"] == 640 * 8 * 4


def test_checkpoints_are_those_kept_and_the_one_being_written() -> None:
    given = {"expansion_factor": 4, "steps": 1000, "checkpoint_every_steps": 100, "keep_checkpoints": 3}
    one = 12 * (2 * 32 * 8 + 32 + 8)
    for keep_every_steps, at_most, kept in (
        (None, 10, 3 + 2),
        (500, 10, 3 + 2 + 2),
        (100, 10, 10),
        (100, 4, 3 + 2 + 4),
    ):
        params = asked(**given, keep_every_steps=keep_every_steps, keep_every_at_most=at_most)
        assert sizes(reckoned(params, SMALL, on_gpu=True), "disk")["checkpoints"] == (kept + 1) * one


def test_activations_from_the_cache_are_on_disk_and_harvested_once() -> None:
    params = asked(steps=100, batch_size=64, buffer_tokens=640, held_out_tokens=60, activation_dtype="bfloat16")
    budget = reckoned(params, SMALL, on_gpu=True, cached=True)
    assert "activation buffer" not in sizes(budget, "host")
    assert sizes(budget, "disk")["activation cache"] == 6460 * 8 * 2
    assert budget.work.harvested_tokens == 6460


def test_filling_a_buffer_while_another_is_served_takes_two() -> None:
    def buffer(**values: object) -> int:
        params = asked(steps=100, batch_size=64, buffer_tokens=640, **values)
        return sizes(reckoned(params, SMALL, on_gpu=True), "host")["activation buffer"]

    assert buffer(prefetch="auto") == 2 * buffer(prefetch="off")
    assert buffer(prefetch="on", max_tokens=640) == buffer(prefetch="off")


def test_helping_dead_latents_counts_only_where_there_may_be_any() -> None:
    def step(**values: object) -> int:
        return sizes(reckoned(asked(**values), GPT2, on_gpu=False), "host")["training step"]

    assert step(dead_after_tokens=10**9) < step(dead_after_tokens=10**5)
    assert step(dead_after_tokens=10**5, auxk_alpha=0) == step(dead_after_tokens=10**9)


def test_a_step_of_topk_does_not_grow_with_the_width_but_one_with_a_penalty_does() -> None:
    def step(**values: object) -> int:
        return sizes(reckoned(asked(**values), LLAMA_1B, on_gpu=False), "host")["training step"]

    assert step(expansion_factor=64) <= 1.2 * step(expansion_factor=8) + 16 * MIB * 16
    assert step(family="standard", expansion_factor=64) > 7 * step(family="standard", expansion_factor=8)


@pytest.mark.parametrize("shape", [GPT2, LLAMA_1B], ids=["768 wide", "2048 wide"])
def test_an_expansion_of_eight_fits_six_gigabytes(shape: ModelShape) -> None:
    params = asked(expansion_factor=8, model_dtype="bfloat16")
    assert reckoned(params, shape, on_gpu=True).total("gpu") <= 6e9


@pytest.mark.parametrize("family", ["topk", "batch_topk", "matryoshka", "jumprelu", "gated", "standard"])
def test_an_expansion_of_eight_on_gpt2_fits_six_gigabytes_in_every_family(family: str) -> None:
    params = asked(expansion_factor=8, family=family)
    assert reckoned(params, GPT2, on_gpu=True).total("gpu") <= 6e9


@pytest.mark.parametrize(("pool", "limit"), [("gpu", 3 * GIB), ("host", 3 * GIB)])
def test_every_advice_taken_makes_it_fit_and_half_as_much_would_not_be_needed(pool: Pool, limit: int) -> None:
    params = asked(expansion_factor=32, batch_size=8192, harvest_batch_size=64)
    make = partial(reckoned, shape=GPT2, on_gpu=True)
    given = advice(params, pool, limit, make)
    assert given
    for item in given:
        changed = params.model_copy(update={item.field: item.value})
        assert make(changed).total(pool) <= limit
        assert make(params).total(pool) - make(changed).total(pool) == item.saves_bytes > 0
        if isinstance(item.value, int) and item.field != "expansion_factor":
            twice = params.model_copy(update={item.field: 2 * item.value})
            assert 2 * item.value > getattr(params, item.field) or make(twice).total(pool) > limit


def test_there_is_no_advice_where_no_single_change_suffices() -> None:
    make = partial(reckoned, shape=LLAMA_1B, on_gpu=True)
    assert advice(asked(), "gpu", GIB, make) == []


def test_what_the_grid_varies_is_not_advised_about() -> None:
    make = partial(reckoned, shape=GPT2, on_gpu=True)
    params = asked(grid={"expansion_factor": [64, 128]}, batch_size=64)
    assert "expansion_factor" not in {item.field for item in advice(params, "gpu", 5 * GIB, make)}


def test_tokens_that_fit_the_buffer_are_harvested_once() -> None:
    fits = asked(steps=100, batch_size=64, max_tokens=1000, buffer_tokens=1000, held_out_tokens=10)
    assert reckoned(fits, SMALL, on_gpu=True).work.harvested_tokens == 1010
    not_all = fits.model_copy(update={"buffer_tokens": 999})
    assert reckoned(not_all, SMALL, on_gpu=True).work.harvested_tokens == 6410


def test_a_place_early_in_the_model_costs_less_to_harvest() -> None:
    early, late = (reckoned(asked(hookpoint=f"layers.{last}"), GPT2, on_gpu=True).work.harvest_flop for last in (2, 5))
    assert late == 2 * early


def test_a_model_of_unknown_width_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="width"):
        reckoned(asked(), ModelShape(None, None), on_gpu=True)


def test_a_table_names_the_largest_part_first() -> None:
    assert reckoned(asked(), LLAMA_1B, on_gpu=True).table("gpu").startswith("language model 4.6 GiB, ")


def test_sizes_are_readable() -> None:
    assert [readable(size) for size in (1, 3 * MIB, 1.25 * GIB)] == ["1 MiB", "3 MiB", "1.2 GiB"]
