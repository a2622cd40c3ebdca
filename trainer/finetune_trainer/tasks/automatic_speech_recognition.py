"""automatic-speech-recognition: what is said in a clip, as text.

There are two ways, and the model's architecture says which: a character for each moment (ctc.py), or a text written
after listening (speech_seq2seq.py). What both share stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.run import RunConfig
from finetune_trainer.analysis.substitutions import edits, substitutions
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.metrics.speech import transcripts
from finetune_trainer.model_folder import ModelFolder, Part, architectures
from finetune_trainer.tasks.augments import CLIPS
from finetune_trainer.tasks.base import MOST_ERRORS, Better, Goal, Report, Rows, TaskKind, wrong_row

BY_MOMENTS = "AutoModelForCTC"


class AutomaticSpeechRecognition(TaskKind):
    """A prediction is a text; the labels are the characters of the training texts."""

    roles = Roles({"audio": columns.audio, "text": columns.text}, needed=(("audio", "text"),), targets=("text",))
    inputs = ("audio",)
    auto_classes = (BY_MOMENTS, "AutoModelForSpeechSeq2Seq")
    parts = (Part.FEATURE_EXTRACTOR,)
    augments = {"audio": CLIPS}
    goal = Goal("wer", Better.LOWER)
    evaluation_rows = 16
    cpu_rows = 2  # a clip of seconds is enough for the matrix products
    usage = """\
import soundfile
from transformers import pipeline

recognize = pipeline("automatic-speech-recognition", "model")
samples, rate = soundfile.read("clip.wav", dtype="float32")
recognize({"raw": samples, "sampling_rate": rate})"""

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        """The characters, for a model that comes without a vocabulary."""
        return sorted({character for row in rows[Side.TRAIN] for character in row.values["text"]})

    @classmethod
    def load(cls, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> TaskKind:
        from finetune_trainer.tasks.ctc import Ctc
        from finetune_trainer.tasks.speech_seq2seq import SpeechSeq2Seq

        way = Ctc if source.model_type in architectures()[BY_MOMENTS] else SpeechSeq2Seq
        return way(source, labels, config)

    def present(self, prediction: str) -> dict[str, Any]:
        return {"text": prediction}

    def judge(self, rows: Sequence[Row], predictions: Sequence[str], baseline: Sequence[Row] | None) -> Report:  # noqa: ARG002
        return Report(transcripts(predictions, [row.values["text"] for row in rows]), errors=_errors(rows, predictions))

    def analyse(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, Any]:
        """The words that are most often heard wrongly."""
        return substitutions(edits(predictions, [row.values["text"] for row in rows]))


def _errors(rows: Sequence[Row], predictions: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with words that are wrong, those with the most for each word that was said first."""
    found = [transcripts([guess], [row.values["text"]]) for row, guess in zip(rows, predictions, strict=True)]
    worst = sorted(range(len(rows)), key=lambda place: -found[place]["wer"])
    return [
        wrong_row(rows[place], prediction=predictions[place], wer=round(found[place]["wer"], 4))
        for place in worst[:MOST_ERRORS]
        if found[place]["wer"]
    ]
