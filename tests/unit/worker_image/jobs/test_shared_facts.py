"""Facts that the contract has to state again, because it imports nothing: they are the trainer's."""

from dataclasses import MISSING, fields

import pytest

from worker_image.contract import architecture, budget
from worker_image.contract.jobs import TrainSaeParams
from worker_image.sae import config, sparse
from worker_image.sae.config import SaeConfig

SHARED = [field for field in fields(SaeConfig) if field.name in TrainSaeParams.model_fields]


@pytest.mark.parametrize("field", [field for field in SHARED if field.default is not MISSING], ids=lambda it: it.name)
def test_what_a_job_leaves_out_is_what_an_autoencoder_leaves_out(field) -> None:  # type: ignore[no-untyped-def]
    default = TrainSaeParams.model_fields[field.name].default
    assert (tuple(default) if isinstance(default, list) else default) == field.default


def test_both_know_the_same_families() -> None:
    assert architecture.Family == config.Family


def test_memory_is_reckoned_with_the_chunks_that_are_computed() -> None:
    assert {"host": sparse._CHUNK_BYTES["cpu"], "gpu": sparse._CHUNK_BYTES_ELSEWHERE} == budget._CHUNK
    assert budget._LEAST_ROWS == sparse._LEAST_ROWS
