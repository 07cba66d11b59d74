"""The learning-rate schedule at its corners."""

import pytest

from worker_image.sae.config import SaeConfig
from worker_image.sae.schedule import lr_factor


def factors(**changes: object) -> list[float]:
    config = SaeConfig(**({"d_in": 4, "d_sae": 8, "k": 2, "steps": 10} | changes))  # type: ignore[arg-type]
    return [lr_factor(step, config) for step in range(config.steps)]


def test_warm_up_rises_evenly_to_the_peak() -> None:
    assert factors(warmup_steps=4, lr_schedule="constant")[:5] == [0.25, 0.5, 0.75, 1, 1]


def test_constant_ignores_the_decay() -> None:
    assert factors(lr_schedule="constant", decay_fraction=1.0) == [1.0] * 10


def test_linear_falls_over_the_last_share_of_training() -> None:
    assert factors(lr_schedule="linear", decay_fraction=0.3) == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25])


def test_cosine_falls_slowly_first() -> None:
    assert factors(lr_schedule="cosine", decay_fraction=0.3)[7:] == pytest.approx([0.8536, 0.5, 0.1464], abs=1e-4)


def test_no_step_is_wasted_on_a_rate_of_zero() -> None:
    assert min(factors(warmup_steps=3, decay_fraction=1.0)) > 0


def test_the_default_rate_follows_the_width() -> None:
    assert SaeConfig(d_in=4, d_sae=2**14, k=2).peak_lr == 2e-4
    assert SaeConfig(d_in=4, d_sae=2**16, k=2).peak_lr == 1e-4
