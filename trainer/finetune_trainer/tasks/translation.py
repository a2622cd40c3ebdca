"""translation: a text in another language."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.data.rows import Row
from finetune_trainer.metrics import generation
from finetune_trainer.tasks.base import Goal
from finetune_trainer.tasks.seq2seq import SequenceToSequence


class Translation(SequenceToSequence):
    """Measured by sacrebleu over all rows; chrF is the goal, because BLEU says little of short texts."""

    goal = Goal("chrf")
    usage = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
tokens = model.generate(**tokenizer("A text.", return_tensors="pt"))
tokenizer.decode(tokens[0], skip_special_tokens=True)"""

    def measure(self, guesses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return generation.translation(guesses, references)

    def guess(self, rows: Sequence[Row], training: Sequence[Row]) -> list[str]:  # noqa: ARG002
        """The source, word for word."""
        return [row.values["source"] for row in rows]
