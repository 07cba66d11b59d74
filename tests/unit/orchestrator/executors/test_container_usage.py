from typing import Any

import pytest

from orchestrator.executors.base import Usage
from orchestrator.executors.container_usage import container_usage

READ = "2026-11-22T17:35:52.890538954Z"
AT = 1795368952.890538


def stats(memory: dict[str, Any]) -> dict[str, Any]:
    return {"read": READ, "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}}, "memory_stats": memory}


@pytest.mark.parametrize(
    "detail",
    [
        pytest.param({"total_inactive_file": 300, "inactive_file": 7, "cache": 500}, id="control groups 1"),
        pytest.param({"inactive_file": 300, "file": 500}, id="control groups 2"),
    ],
)
def test_file_pages_that_are_not_in_use_count_as_free(detail: dict[str, int]) -> None:
    assert container_usage(stats({"usage": 1000, "stats": detail})) == Usage(AT, 2.5, 700)


def test_memory_without_details_is_taken_as_it_is() -> None:
    assert container_usage(stats({"usage": 1000})) == Usage(AT, 2.5, 1000)


@pytest.mark.parametrize("memory", [{}, {"usage": 0}, None])
def test_a_container_that_does_not_run_uses_nothing(memory: Any) -> None:
    assert container_usage({"read": "0001-01-01T00:00:00Z", "memory_stats": memory}) is None
