from orchestrator.domain import ACTIVE, STATUS_OF, TERMINAL, TRANSITIONS, EndReason, JobStatus


def test_nothing_follows_a_terminal_status() -> None:
    assert {"completed", "stopped", "failed", "cancelled"} == TERMINAL
    assert not any(TRANSITIONS[status] for status in TERMINAL)


def test_every_status_can_end_in_cancelled() -> None:
    for status in set(JobStatus) - TERMINAL:
        assert JobStatus.CANCELLED in TRANSITIONS[status]


def test_every_end_reason_settles_every_active_status_in_a_way_the_table_allows() -> None:
    settled_by_intent = {EndReason.PAUSED: {JobStatus.STOPPING}}
    for reason in EndReason:
        for status in ACTIVE - settled_by_intent.get(reason, set()):
            assert STATUS_OF[reason] in TRANSITIONS[status]
