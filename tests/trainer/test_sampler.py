"""The order of the rows depends on the seed alone, and processes share micro-batches without losing or doubling any."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.sampler import Sampler, draw_seed, micro_batches, share


def test_every_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    sampler = Sampler(rows=50, batch=16, seed=3)
    epochs = [list(chain.from_iterable(sampler.indices(4 * epoch + step) for step in range(4))) for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(50))] * 2
    assert epochs[0] != epochs[1]


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down, because a resumed run may meet another version of NumPy."""
    assert Sampler(rows=10, batch=10, seed=42).indices(0) == [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]


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


def test_a_process_without_micro_batch_gets_none() -> None:
    assert [share([[0, 1]], rank, 3) for rank in range(3)] == [[(0, [0, 1])], [], []]


def test_every_micro_batch_draws_its_own_random_numbers() -> None:
    """The same in every process and every attempt."""
    seeds = [draw_seed(seed, step, number) for seed in range(3) for step in range(20) for number in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert draw_seed(42, 7, 1) == 3194156676
