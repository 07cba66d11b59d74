"""Retention: what the policy names stays, what it does not name goes."""

from hypothesis import given
from hypothesis import strategies as st

from worker_image.contract.retention import RetentionPolicy, best_of, doomed
from worker_image.sae.checkpoint import Kept

kept = st.builds(
    lambda step, loss, is_anomaly: Kept(f"{'anomaly' if is_anomaly else 'step'}_{step}", step, loss, is_anomaly),
    st.integers(0, 30).map(lambda step: step * 100),
    st.none() | st.integers(0, 4).map(float),
    st.booleans(),
)
folders = st.lists(kept, unique_by=lambda found: found.name).map(
    lambda folder: sorted(folder, key=lambda one: one.step)
)
policies = st.builds(
    RetentionPolicy,
    newest=st.integers(1, 4),
    every_steps=st.none() | st.sampled_from([100, 1000, 700]),
    every_at_most=st.integers(1, 31),
    first=st.booleans(),
    best=st.booleans(),
)


def gone_of(found: list[Kept], policy: RetentionPolicy) -> list[str]:
    return [one.name for one in doomed(found, policy)]


def steps(*numbers: int) -> list[Kept]:
    return [Kept(f"step_{number}", number) for number in numbers]


def test_first_newest_and_every_thousandth_stay() -> None:
    found = steps(250, 500, 750, 1000, 1250, 1500, 1750, 2000, 2250)
    assert gone_of(found, RetentionPolicy(newest=3)) == ["step_500", "step_750", "step_1250", "step_1500"]


def test_the_best_stays_and_the_one_it_beat_goes() -> None:
    found = [Kept("step_1", 1, 0.5), Kept("step_2", 2, 0.2), Kept("step_3", 3, 0.3), Kept("step_4", 4, 0.4)]
    policy = RetentionPolicy(newest=1, every_steps=None, first=False)
    assert gone_of(found, policy) == ["step_1", "step_3"]
    assert gone_of([*found, Kept("step_5", 5, 0.1)], policy) == ["step_1", "step_2", "step_3", "step_4"]


def test_of_many_round_ones_those_at_multiples_of_twice_as_many_steps_stay() -> None:
    policy = RetentionPolicy(newest=1, every_steps=10, every_at_most=4, first=False)
    assert gone_of(steps(*range(10, 60, 10)), policy) == []
    assert gone_of(steps(*range(10, 70, 10)), policy) == ["step_10", "step_30", "step_50"]


def test_a_long_run_keeps_no_more_than_a_short_one() -> None:
    found: list[Kept] = []
    for step in range(1000, 400_000, 1000):
        found.append(Kept(f"step_{step}", step))
        found = [one for one in found if one not in doomed(found, RetentionPolicy())]
        assert len(found) <= 3 + 1 + 10
    # Of the whole run, and not of its end alone.
    assert {1000, 64_000, 128_000, 192_000, 256_000, 320_000} <= {one.step for one in found}


def test_the_same_steps_of_several_attempts_are_bounded_too() -> None:
    found = [Kept(f"{attempt}/step_1000", 1000) for attempt in range(40)]
    left = [one for one in found if one not in doomed(found, RetentionPolicy(1, every_at_most=4, first=False))]
    assert len(left) <= 5


@given(folders, policies, st.data())
def test_nothing_in_use_and_no_anomaly_is_ever_doomed(
    found: list[Kept], policy: RetentionPolicy, data: st.DataObject
) -> None:
    in_use = data.draw(st.sets(st.sampled_from(found))) if found else set()
    gone = set(doomed(found, policy, in_use))
    assert not gone & in_use
    assert not any(one.is_anomaly for one in gone)


@given(folders, policies)
def test_what_stays_is_what_the_policy_names(found: list[Kept], policy: RetentionPolicy) -> None:
    gone = set(doomed(found, policy))
    usable = [one for one in found if not one.is_anomaly]
    round_ones = 0
    for nth, one in enumerate(usable):
        newest = nth >= len(usable) - policy.newest
        first = policy.first and nth == 0
        best = policy.best and best_of(usable) == one
        if newest or first or best:
            assert one not in gone
        elif one not in gone:
            assert policy.every_steps is not None
            assert one.step % policy.every_steps == 0
            round_ones += 1
    assert round_ones <= policy.every_at_most


@given(folders, policies)
def test_deleting_once_leaves_nothing_to_delete(found: list[Kept], policy: RetentionPolicy) -> None:
    gone = set(doomed(found, policy))
    assert doomed([one for one in found if one not in gone], policy) == []


@given(folders)
def test_the_best_is_measured_and_none_is_better(found: list[Kept]) -> None:
    best = best_of(found)
    measured = [one.held_out_loss for one in found if one.held_out_loss is not None and not one.is_anomaly]
    assert (best.held_out_loss if best else None) == min(measured, default=None)
