"""summarization: a long text told in a short one."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from finetune_trainer.data.rows import Row
from finetune_trainer.metrics import generation
from finetune_trainer.tasks.base import Goal
from finetune_trainer.tasks.seq2seq import SequenceToSequence


class Summarization(SequenceToSequence):
    """Measured by the words and word pairs that a summary shares with the one that was wanted."""

    goal = Goal("rougeL")
    usage = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
tokens = model.generate(**tokenizer("A long text.", return_tensors="pt"))
tokenizer.decode(tokens[0], skip_special_tokens=True)"""

    def measure(self, guesses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return generation.overlap(guesses, references)

    def guess(self, rows: Sequence[Row], training: Sequence[Row]) -> list[str]:
        """The source's first words, as many as the training targets have on average."""
        words = round(fmean(len(row.values["target"].split()) for row in training))
        return [" ".join(row.values["source"].split()[:words]) for row in rows]
