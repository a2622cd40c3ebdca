"""The parts of a cross-validation: every row in one, groups whole, shares of labels kept, the same every time."""

from __future__ import annotations

import numpy
import pytest

from finetune_trainer.data.folds import fold_numbers
from finetune_trainer.errors import ConfigError

LABELS = numpy.array([0] * 80 + [1] * 20, dtype=numpy.int32)


def test_parts_are_of_one_size_and_keep_the_shares_of_labels() -> None:
    numbers = fold_numbers(numpy.arange(100), LABELS, 5, seed=1)
    assert [list(numpy.bincount(LABELS[numbers == part])) for part in range(5)] == [[16, 4]] * 5


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_group_is_never_parted(labels: numpy.ndarray | None) -> None:
    groups = numpy.arange(100) // 3
    numbers = fold_numbers(groups, labels, 4, seed=1)
    assert all(len(set(numbers[groups == group])) == 1 for group in groups)
    assert set(numbers) == {0, 1, 2, 3}


def test_the_seed_decides() -> None:
    first, again, other = (fold_numbers(numpy.arange(100), LABELS, 5, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_label_with_fewer_rows_than_parts_is_no_fault() -> None:
    labels = numpy.array([0] * 18 + [1] * 2, dtype=numpy.int32)
    assert set(fold_numbers(numpy.arange(20), labels, 5, seed=1)) == {0, 1, 2, 3, 4}


def test_more_parts_than_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"spec.evaluation.crossValidation.folds: 5 folds of 4 training rows"):
        fold_numbers(numpy.array([1, 2, 3, 4, 4]), None, 5, seed=1)
