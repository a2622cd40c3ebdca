"""The Lease: one operator at a time, a quick hand-over, and never two because clocks differ."""

from dataclasses import dataclass

import pytest

from finetune_operator.shell import errors
from finetune_operator.shell.cluster import LEASE
from finetune_operator.shell.lease import DURATION_SECONDS, LEASE_NAME, LeadershipLost, Lease
from support.builders import NOW
from support.fakes import FakeCluster, finish


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(clock=lambda: NOW)


def a_lease(cluster: FakeCluster, clock: Clock, identity: str = "one") -> Lease:
    return Lease(cluster, "finetune", identity, clock)


def holder(cluster: FakeCluster) -> str:
    name: str = cluster.objects[LEASE, "finetune", LEASE_NAME]["spec"]["holderIdentity"]
    return name


def test_the_first_gets_it_and_the_second_waits(cluster: FakeCluster, clock: Clock) -> None:
    one, two = a_lease(cluster, clock), a_lease(cluster, clock, "two")
    assert finish(one.attempt())
    assert not finish(two.attempt())
    assert holder(cluster) == "one"


def test_a_holder_that_renews_keeps_it(cluster: FakeCluster, clock: Clock) -> None:
    one, two = a_lease(cluster, clock), a_lease(cluster, clock, "two")
    finish(one.attempt())
    for _ in range(5):
        assert not finish(two.attempt())
        clock.now += DURATION_SECONDS - 1
        assert finish(one.attempt())
    assert not finish(two.attempt())


def test_a_holder_that_died_is_followed_after_the_lease_has_run_out(cluster: FakeCluster, clock: Clock) -> None:
    """Counted from when we saw it last, whatever the holder's clock said."""
    finish(a_lease(cluster, clock).attempt())
    two = a_lease(cluster, clock, "two")
    assert not finish(two.attempt())
    clock.now += DURATION_SECONDS
    assert not finish(two.attempt())
    clock.now += 1
    assert finish(two.attempt())
    assert cluster.objects[LEASE, "finetune", LEASE_NAME]["spec"]["leaseTransitions"] == 1


def test_a_released_lease_is_free_at_once(cluster: FakeCluster, clock: Clock) -> None:
    one, two = a_lease(cluster, clock), a_lease(cluster, clock, "two")
    finish(one.attempt())
    finish(one.release())
    assert finish(two.attempt())


def test_only_the_holder_can_release(cluster: FakeCluster, clock: Clock) -> None:
    finish(a_lease(cluster, clock).attempt())
    finish(a_lease(cluster, clock, "two").release())
    assert holder(cluster) == "one"


def test_a_race_for_a_free_lease_has_one_winner(cluster: FakeCluster, clock: Clock) -> None:
    one, two = a_lease(cluster, clock), a_lease(cluster, clock, "two")

    def two_is_faster(_: str) -> None:
        cluster.before = lambda _: None
        assert finish(two.attempt())

    cluster.before = two_is_faster
    assert not finish(one.attempt())
    assert holder(cluster) == "two"


async def test_who_cannot_renew_stops_before_another_may_start(
    cluster: FakeCluster, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = a_lease(cluster, clock)
    assert await one.attempt()

    def unreachable(_: str) -> None:
        raise errors.Unreachable("no route")

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    cluster.before = unreachable
    monkeypatch.setattr("finetune_operator.shell.lease.asyncio.sleep", sleep)
    with pytest.raises(LeadershipLost):
        await one.keep()
    assert clock.now - 100 <= DURATION_SECONDS
