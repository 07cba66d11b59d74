"""Retention: what the policy names stays, what it does not name goes."""

from hypothesis import given
from hypothesis import strategies as st

from worker_image.sae.retention import Kept, RetentionPolicy, best_of, doomed

kept = st.builds(
    lambda step, loss, is_anomaly: Kept(f"{'anomaly' if is_anomaly else 'step'}_{step}", step, loss, is_anomaly),
    st.integers(0, 30).map(lambda step: step * 100),
    st.none() | st.integers(0, 4).map(float),
    st.booleans(),
)
folders = st.lists(kept, unique_by=lambda found: found.name)
policies = st.builds(
    RetentionPolicy,
    newest=st.integers(1, 4),
    every_steps=st.none() | st.sampled_from([100, 1000, 700]),
    first=st.booleans(),
    best=st.booleans(),
)


def steps(*numbers: int) -> list[Kept]:
    return [Kept(f"step_{number}", number) for number in numbers]


def test_first_newest_and_every_thousandth_stay() -> None:
    found = steps(250, 500, 750, 1000, 1250, 1500, 1750, 2000, 2250)
    assert doomed(found, RetentionPolicy(newest=3)) == ["step_500", "step_750", "step_1250", "step_1500"]


def test_the_best_stays_and_the_one_it_beat_goes() -> None:
    found = [Kept("step_1", 1, 0.5), Kept("step_2", 2, 0.2), Kept("step_3", 3, 0.3), Kept("step_4", 4, 0.4)]
    policy = RetentionPolicy(newest=1, every_steps=None, first=False)
    assert doomed(found, policy) == ["step_1", "step_3"]
    assert doomed([*found, Kept("step_5", 5, 0.1)], policy) == ["step_1", "step_2", "step_3", "step_4"]


def test_newest_means_the_highest_step_as_a_number() -> None:
    policy = RetentionPolicy(newest=2, every_steps=None, first=False)
    assert doomed(steps(900, 1000, 90), policy) == ["step_90"]


@given(folders, policies, st.data())
def test_nothing_in_use_and_no_anomaly_is_ever_doomed(
    found: list[Kept], policy: RetentionPolicy, data: st.DataObject
) -> None:
    in_use = data.draw(st.sets(st.sampled_from([one.name for one in found]))) if found else set()
    gone = set(doomed(found, policy, in_use))
    assert not gone & in_use
    assert not any(name.startswith("anomaly_") for name in gone)


@given(folders, policies)
def test_what_stays_is_what_the_policy_names(found: list[Kept], policy: RetentionPolicy) -> None:
    gone = set(doomed(found, policy))
    usable = sorted((one for one in found if not one.is_anomaly), key=lambda one: one.step)
    for nth, one in enumerate(usable):
        newest = nth >= len(usable) - policy.newest
        first = policy.first and nth == 0
        milestone = policy.every_steps is not None and one.step % policy.every_steps == 0
        best = policy.best and best_of(usable) == one
        assert (one.name not in gone) == (newest or first or milestone or best)


@given(folders, policies)
def test_deleting_once_leaves_nothing_to_delete(found: list[Kept], policy: RetentionPolicy) -> None:
    gone = set(doomed(found, policy))
    assert doomed([one for one in found if one.name not in gone], policy) == []


@given(folders, policies)
def test_the_order_of_the_folder_does_not_matter(found: list[Kept], policy: RetentionPolicy) -> None:
    assert doomed(found[::-1], policy) == doomed(found, policy)


@given(folders)
def test_the_best_is_measured_and_none_is_better(found: list[Kept]) -> None:
    best = best_of(found)
    measured = [one.held_out_loss for one in found if one.held_out_loss is not None and not one.is_anomaly]
    assert (best.held_out_loss if best else None) == min(measured, default=None)
