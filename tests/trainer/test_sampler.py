"""The order of the rows depends on the seed alone, and processes share micro-batches without losing or doubling any."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.sampler import Sampler, draw_seed, micro_batches, row_seed, share
from finetune_trainer.errors import ConfigError


def test_every_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    sampler = Sampler(rows=50, batch=16, seed=3)
    epochs = [list(chain.from_iterable(sampler.indices(4 * epoch + step) for step in range(4))) for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(50))] * 2
    assert epochs[0] != epochs[1]


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down, because a resumed run may meet another version of NumPy."""
    assert Sampler(rows=10, batch=10, seed=42).indices(0) == [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]


def epoch_of(sampler: Sampler, number: int) -> list[int]:
    """The rows of one epoch."""
    steps = sampler.steps_per_epoch
    return list(chain.from_iterable(sampler.indices(number * steps + step) for step in range(steps)))


def test_weights_of_one_change_nothing() -> None:
    """So that a run goes on from a checkpoint that was made before there were weights."""
    plain, weighted = Sampler(40, 7, 5), Sampler(40, 7, 5, weights=[1.0] * 40)
    assert [epoch_of(weighted, number) for number in range(3)] == [epoch_of(plain, number) for number in range(3)]


def test_rows_come_as_often_as_their_weight_says() -> None:
    """Every row of a whole weight, and of a broken one as many as make it up, others in each epoch."""
    weights = [1.0] * 10 + [2.0] * 10 + [0.5] * 10 + [1.3] * 10
    sampler = Sampler(rows=40, batch=8, seed=3, weights=weights)
    assert sampler.epoch_rows == 10 + 20 + 5 + 13
    epochs = [Counter(epoch_of(sampler, number)) for number in range(30)]
    for counts in epochs:
        assert [counts[row] for row in range(20)] == [1] * 10 + [2] * 10
        assert sum(counts[row] for row in range(20, 30)) == 5
        assert {counts[row] for row in range(20, 30)} == {0, 1}
        assert sorted(counts[row] for row in range(30, 40)) == [1] * 7 + [2] * 3
    total = sum(epochs, Counter())
    assert min(total[row] for row in range(20, 30)) >= 5
    assert min(total[row] for row in range(30, 40)) > 30


def test_the_order_with_weights_follows_from_the_seed_alone() -> None:
    """Written down, as that without weights is."""
    first, again, other = (Sampler(6, 8, seed, weights=[1.5] * 4 + [0.5] * 2) for seed in (1, 1, 2))
    assert first.indices(0) == [2, 4, 0, 3, 1, 0, 2]
    assert [first.indices(step) for step in range(4)] == [again.indices(step) for step in range(4)]
    assert first.indices(1) != first.indices(0) != other.indices(0)


def test_weights_that_leave_no_row() -> None:
    with pytest.raises(ConfigError, match="with these weights an epoch has none of 2 rows"):
        Sampler(2, 8, 0, weights=[0.1, 0.1]).indices(0)


@pytest.mark.parametrize(
    ("step", "epoch"),
    [
        pytest.param(0, 0.0, id="start"),
        pytest.param(1, 0.32, id="one batch of 50 rows"),
        pytest.param(4, 1.0, id="the short batch ends the epoch"),
        pytest.param(9, 2.32, id="later"),
    ],
)
def test_epoch(step: int, epoch: float) -> None:
    assert Sampler(rows=50, batch=16, seed=0).epoch(step) == epoch


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 20), st.integers(1, 7))
def test_processes_share_all_rows_of_a_step(sizes: list[int], rows: int, processes: int) -> None:
    """Each row is in one micro-batch of one process, however many there are."""
    batches = micro_batches(range(len(sizes)), sizes, rows)
    shared = [share(batches, rank, processes) for rank in range(processes)]
    dealt = sorted(chain.from_iterable(shared))
    assert dealt == list(enumerate(batches))
    assert sorted(chain.from_iterable(batches)) == list(range(len(sizes)))
    assert all(len(batch) <= rows for batch in batches)


def test_micro_batches_are_alike_in_size_and_dealt_to_and_fro() -> None:
    sizes = [5, 1, 9, 3, 7, 2, 8, 4]
    batches = micro_batches(range(8), sizes, 2)
    assert batches == [[2, 6], [4, 0], [7, 3], [5, 1]]
    assert [share(batches, rank, 2) for rank in range(2)] == [
        [(0, [2, 6]), (3, [5, 1])],
        [(1, [4, 0]), (2, [7, 3])],
    ]


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        pytest.param(6, [[5, 0], [4, 1], [3, 2]], id="even"),
        pytest.param(5, [[5, 0], [4, 1, 3]], id="a last row joins the micro-batch before"),
        pytest.param(1, [[5]], id="a single row"),
    ],
)
def test_micro_batches_in_order(count: int, batches: list[list[int]]) -> None:
    assert micro_batches([5, 0, 4, 1, 3, 2][:count], [1] * 6, 2, in_order=True) == batches


def test_micro_batches_of_one_size() -> None:
    sizes = [3, 7, 3, 3, 7, 1]
    assert micro_batches(range(6), sizes, 2, alike=True) == [[1, 4], [0, 2], [3], [5]]


def test_a_row_that_comes_twice_in_a_step_is_in_two_places() -> None:
    assert micro_batches([1, 0, 1], [4, 9], 2) == [[1, 1], [0]]


def test_a_process_without_micro_batch_gets_none() -> None:
    assert [share([[0, 1]], rank, 3) for rank in range(3)] == [[(0, [0, 1])], [], []]


def test_every_micro_batch_draws_its_own_random_numbers() -> None:
    """The same in every process and every attempt."""
    seeds = [draw_seed(seed, step, number) for seed in range(3) for step in range(20) for number in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert draw_seed(42, 7, 1) == 3194156676


def test_every_row_draws_its_own_random_numbers_in_every_epoch() -> None:
    seeds = [row_seed(seed, epoch, index) for seed in range(3) for epoch in (0, 1, "validation") for index in range(30)]
    assert len(set(seeds)) == len(seeds)
    assert row_seed(42, 7, 1) == 2062122551
