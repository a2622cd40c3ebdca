"""Which rows an optimizer step takes, and their random numbers, are the same for any number of processes.

Whole runs that go on with more processes or fewer are in test_elastic.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from finetune_trainer.data.sampler import share
from support.methods import built
from support.models import sentences, write_rows
from support.runs import a_run

pytestmark = pytest.mark.torch
EPOCHS = 3
MICRO_BATCH_ROWS = {1: 8, 2: 8, 3: 6, 5: 4, 16: 1}
"""Of a step of 16 rows, by the number of processes: none of them is to be without."""


def test_a_step_takes_the_same_rows_however_many_share_it(models: Callable[[str], Path], tmp_path: Path) -> None:
    """Each once, with the seed of its augmentation; rows of a rare label come several times, each time with another."""
    rows = [row for row in sentences(90) if row[1] != "praise"] + [("thanks a lot", "praise"), ("so happy", "praise")]
    data = write_rows(tmp_path / "rows.csv", rows)
    run = a_run(tmp_path, data.as_uri(), models("bert").as_uri(), numTrainEpochs=EPOCHS)
    changes = {"augment": {"text": {"wordDropout": 0.2}}, "balance": {"oversample": "Minority"}}
    held = {"validation": {"sources": [{"uri": data.as_uri()}]}, "test": {"sources": [{"uri": data.as_uri()}]}}
    at_work = built(run.with_("dataset", dedup={"acrossSplits": False}, **changes, **held))
    for step in range(EPOCHS * at_work.sampler.steps_per_epoch):
        found = {}
        for size, most in MICRO_BATCH_ROWS.items():
            at_work.choices = replace(at_work.choices, micro_batch_rows=most)
            shares = [share(at_work.cut(step), rank, size) for rank in range(size)]
            numbers = sorted(number for own in shares for number, _ in own)
            assert numbers == list(range(len(numbers)))
            found[size] = sorted(chain.from_iterable(part for own in shares for _, part in own))
        assert all(drawn == found[1] for drawn in found.values())
        assert len(set(found[1])) == len(found[1]) == len(at_work.sampler.indices(step))
