from uuid import uuid4

from orchestrator.broker import Broker

ONE, OTHER = uuid4(), uuid4()


async def test_news_of_a_job_reach_those_who_wait_for_it_and_for_all() -> None:
    broker = Broker()
    one, other, everything = broker.listen(ONE), broker.listen(OTHER), broker.listen()
    broker.ring(ONE)
    assert (one.is_set(), other.is_set(), everything.is_set()) == (True, False, True)


async def test_news_of_nobody_in_particular_reach_everyone() -> None:
    broker = Broker()
    waiting = [broker.listen(ONE), broker.listen(OTHER), broker.listen()]
    broker.ring()
    assert all(event.is_set() for event in waiting)


async def test_after_a_ring_there_is_a_new_one_to_wait_for() -> None:
    broker = Broker()
    broker.listen(ONE)
    broker.ring(ONE)
    assert not broker.listen(ONE).is_set()
    assert not broker.listen().is_set()


async def test_closing_wakes_everyone() -> None:
    broker = Broker()
    waiting = [broker.listen(ONE), broker.listen()]
    broker.close()
    assert broker.closed
    assert all(event.is_set() for event in waiting)
