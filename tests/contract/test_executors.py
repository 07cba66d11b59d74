"""What every executor promises: one suite over the fake, plain processes and Docker."""

import asyncio
import os
import time

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Owned, RunState
from tests.contract.benches import Bench, EngineBench
from tests.contract.programs import OBEDIENT, SPEAK, SPOKEN, STUBBORN
from worker_image.contract.launch import CLAIMED_EXIT_CODE
from worker_image.contract.rundir import RunDir

SIGKILLED = 137
GENEROUS_GRACE_S = 30.0


async def test_it_says_what_answers(bench: Bench) -> None:
    assert await bench.executor.check()


async def test_the_exit_code_is_the_programs_own(bench: Bench) -> None:
    _, handle = await bench.launch(SPEAK)
    seen = await bench.until(handle, RunState.EXITED)
    assert (seen.exit_code, seen.oom_killed, seen.error) == (3, False, None)


async def test_the_log_holds_every_byte_as_written(bench: Bench) -> None:
    spec, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    assert RunDir(spec.run_dir).log.read_bytes() == SPOKEN


async def test_launching_twice_runs_once_under_one_handle(bench: Bench) -> None:
    spec, handle = await bench.launch(OBEDIENT)
    await bench.until_log(spec, b"ready")
    assert await bench.executor.launch(spec) == handle
    await bench.executor.stop(handle, GENEROUS_GRACE_S)
    assert RunDir(spec.run_dir).log.read_bytes() == b"ready\nterminated\n"


async def test_launching_twice_at_the_same_moment_runs_once(bench: Bench) -> None:
    spec = bench.spec(OBEDIENT)
    handles = set(await asyncio.gather(*(bench.restarted().launch(spec) for _ in range(3))))
    assert len(handles) == 1
    await bench.until_log(spec, b"ready")
    await bench.executor.stop(handles.pop(), GENEROUS_GRACE_S)
    assert RunDir(spec.run_dir).log.read_bytes() == b"ready\nterminated\n"


async def test_launching_an_ended_attempt_again_leaves_it_ended(bench: Bench) -> None:
    spec, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    assert await bench.executor.launch(spec) == handle
    seen = await bench.executor.inspect(handle)
    assert (seen.state, seen.exit_code) == (RunState.EXITED, 3)
    assert RunDir(spec.run_dir).log.read_bytes() == SPOKEN


async def test_the_claim_keeps_an_attempt_from_running_again_even_after_it_was_removed(bench: Bench) -> None:
    spec, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    await bench.executor.remove(handle)
    again = await bench.executor.launch(spec)
    assert (await bench.until(again, RunState.EXITED)).exit_code == CLAIMED_EXIT_CODE
    assert RunDir(spec.run_dir).log.read_bytes() == SPOKEN


async def test_a_new_executor_finds_and_adopts_what_runs(bench: Bench) -> None:
    spec, handle = await bench.launch(OBEDIENT)
    await bench.until_log(spec, b"ready")
    await bench.executor.close()
    bench.executor = bench.restarted()
    assert await bench.executor.list_owned() == [Owned(spec.job_id, spec.attempt, handle)]
    assert (await bench.executor.inspect(handle)).state is RunState.RUNNING
    assert await bench.executor.launch(spec) == handle
    await bench.executor.stop(handle, GENEROUS_GRACE_S)
    assert (await bench.executor.inspect(handle)).exit_code == 5


async def test_sigterm_reaches_the_program_and_its_own_exit_code_counts(bench: Bench) -> None:
    spec, handle = await bench.launch(OBEDIENT)
    await bench.until_log(spec, b"ready")
    await bench.executor.stop(handle, GENEROUS_GRACE_S)
    seen = await bench.executor.inspect(handle)
    assert (seen.state, seen.exit_code) == (RunState.EXITED, 5)


async def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(bench: Bench) -> None:
    spec, handle = await bench.launch(STUBBORN)
    await bench.until_log(spec, b"ready")
    began = time.monotonic()
    await bench.executor.stop(handle, 0.3)
    assert time.monotonic() - began >= 0.3
    seen = await bench.executor.inspect(handle)
    assert (seen.state, seen.exit_code, seen.oom_killed) == (RunState.EXITED, SIGKILLED, False)


async def test_stopping_what_has_ended_changes_nothing(bench: Bench) -> None:
    _, handle = await bench.launch(SPEAK)
    before = await bench.until(handle, RunState.EXITED)
    await bench.executor.stop(handle, GENEROUS_GRACE_S)
    assert await bench.executor.inspect(handle) == before


async def test_stopping_what_was_only_created_keeps_it_from_ever_running(engine_bench: EngineBench) -> None:
    spec, handle = await engine_bench.created_only(SPEAK)
    await engine_bench.executor.stop(handle, GENEROUS_GRACE_S)
    assert (await engine_bench.executor.inspect(handle)).state is RunState.MISSING
    assert RunDir(spec.run_dir).log.read_bytes() == b""


async def test_launching_what_was_only_created_starts_it(engine_bench: EngineBench) -> None:
    spec, handle = await engine_bench.created_only(SPEAK)
    assert (await engine_bench.executor.inspect(handle)).state is RunState.CREATED
    assert await engine_bench.executor.launch(spec) == handle
    assert (await engine_bench.until(handle, RunState.EXITED)).exit_code == 3


async def test_removing_a_running_attempt_ends_and_forgets_it(bench: Bench) -> None:
    spec, handle = await bench.launch(STUBBORN)
    await bench.until_log(spec, b"ready")
    await bench.executor.remove(handle)
    assert (await bench.executor.inspect(handle)).state is RunState.MISSING
    assert await bench.executor.list_owned() == []


async def test_removing_and_stopping_what_is_gone_changes_nothing(bench: Bench) -> None:
    _, handle = await bench.launch(SPEAK)
    await bench.executor.remove(handle)
    await bench.executor.remove(handle)
    await bench.executor.stop(handle, GENEROUS_GRACE_S)
    assert (await bench.executor.inspect(handle)).state is RunState.MISSING


async def test_ended_attempts_are_listed_until_they_are_removed(bench: Bench) -> None:
    first, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    second, other = await bench.launch(SPEAK)
    await bench.until(other, RunState.EXITED)
    assert {owned.job_id for owned in await bench.executor.list_owned()} == {first.job_id, second.job_id}
    await bench.executor.remove(handle)
    assert [owned.job_id for owned in await bench.executor.list_owned()] == [second.job_id]


async def test_a_silent_engine_is_unavailable_and_never_a_missing_attempt(
    engine_bench: EngineBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, handle = await engine_bench.launch(OBEDIENT)
    engine_bench.break_engine(monkeypatch)
    for call in (
        engine_bench.executor.check(),
        engine_bench.executor.prepare(engine_bench.image),
        engine_bench.executor.launch(spec),
        engine_bench.executor.inspect(handle),
        engine_bench.executor.usage(handle),
        engine_bench.executor.stop(handle, 0),
        engine_bench.executor.remove(handle),
        engine_bench.executor.list_owned(),
        engine_bench.executor.states([handle]),
    ):
        with pytest.raises(EngineUnavailable):
            await call


async def test_a_process_of_an_attempt_is_told_from_one_of_another_and_from_outside(bench: Bench) -> None:
    (first, one), (second, other) = await bench.launch(OBEDIENT), await bench.launch(OBEDIENT)
    for spec in (first, second):
        await bench.until_log(spec, b"ready")
    pids = {pid: handle for handle in (one, other) for pid in await bench.pids(handle)}
    assert set(pids.values()) == {one, other}
    told = await bench.executor.whose({*pids, os.getpid()}, [one, other])
    # Those that their program started may have ended since.
    assert told.items() <= pids.items()
    assert set(told.values()) == {one, other}
    assert set((await bench.executor.whose(pids, [other])).values()) == {other}


async def test_of_an_ended_attempt_there_are_no_processes(bench: Bench) -> None:
    _, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    assert await bench.executor.whose({os.getpid()}, [handle]) == {}


async def test_a_running_attempt_tells_what_it_uses_and_counts_its_time_up(bench: Bench) -> None:
    spec, handle = await bench.launch(OBEDIENT)
    await bench.until_log(spec, b"ready")
    first = await bench.executor.usage(handle)
    assert first is not None
    assert first.memory_bytes > 0
    second = await bench.until_used(handle, cpu_s=first.cpu_s)
    assert second.at > first.at
    assert abs(second.at - time.time()) < 60


async def test_an_attempt_that_does_not_run_uses_nothing(bench: Bench) -> None:
    _, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    assert await bench.executor.usage(handle) is None
    await bench.executor.remove(handle)
    assert await bench.executor.usage(handle) is None


async def test_it_tells_facts_about_itself(bench: Bench) -> None:
    assert all(name and value for name, value in (await bench.executor.facts()).items())


async def test_one_look_tells_the_states_of_all(bench: Bench) -> None:
    (spec, runs), (_, ends), (_, goes) = [await bench.launch(program) for program in (OBEDIENT, SPEAK, SPEAK)]
    await bench.until_log(spec, b"ready")
    await bench.until(ends, RunState.EXITED)
    await bench.executor.remove(goes)
    assert await bench.executor.states([runs, ends, goes]) == {
        runs: RunState.RUNNING,
        ends: RunState.EXITED,
        goes: RunState.MISSING,
    }
    assert await bench.executor.states([]) == {}
