"""Cleaning of clips: silence at the ends, lengths, and sound that was too loud for what recorded it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune_api.clean import CleanAudio
from finetune_trainer.data.clean.step import Step
from finetune_trainer.data.media import Media, read_samples
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    import numpy

ROLE = "audio"
RESAMPLE = "resample"
MOMENT = 0.02
"""Seconds over which loudness is measured."""
FULL_SCALE = 0.999
"""From this amplitude on a sample counts as clipped."""


def sound_steps(clean: CleanAudio, drop_corrupt: bool) -> list[Step]:
    """The steps that are asked for, in their order."""
    most, least, longest = clean.drop_clipped, clean.min_seconds, clean.max_seconds
    steps = [Step.dropping("dropCorrupt", _is_whole, ROLE)] if drop_corrupt else []
    if most is not None:
        steps.append(Step.dropping("dropClipped", lambda row: clipped(_samples(row)[0]) <= most, ROLE))
    steps += trimming(clean)
    if least is not None:
        steps.append(Step.dropping("minSeconds", lambda row: _seconds(row) >= least, ROLE))
    if longest is not None:
        steps.append(Step.dropping("maxSeconds", lambda row: _seconds(row) <= longest, ROLE))
    return steps


def trimming(clean: CleanAudio) -> list[Step]:
    """The step that changes what is heard, if it is asked for."""
    if clean.trim_silence is None:
        return []
    below = clean.trim_silence
    return [Step("trimSilence", lambda row: _trimmed(row, below), role=ROLE)]


def _trimmed(row: Row, below: float) -> Row:
    samples, rate = _samples(row)
    first, end = loud_part(samples, rate, below)
    if (first, end) == (0, len(samples)):
        return row
    return replace(row, values={**row.values, ROLE: replace(row.values[ROLE], part=(first, end))})


def loud_part(samples: numpy.ndarray, rate: int, below: float) -> tuple[int, int]:
    """The first frame, and the one after the last, of the moments less than `below` dB under the loudest one.

    A clip in which nothing sounds is kept whole: silence may be what its label says.
    """
    import numpy

    step = max(round(rate * MOMENT), 1)
    padded = numpy.pad(samples, (0, -len(samples) % step)).reshape(-1, step)
    power = numpy.square(padded, dtype=numpy.float64).mean(axis=1)
    loud = numpy.flatnonzero(power > power.max() * 10 ** (-below / 10))
    if not len(loud):
        return 0, len(samples)
    return int(loud[0]) * step, min((int(loud[-1]) + 1) * step, len(samples))


class Rates:
    """How many clips there are of each rate in Hz. Tasks resample clips of another rate than the model's."""

    def __init__(self) -> None:
        self.clips: Counter[int] = Counter()

    def step(self) -> Step:
        return Step(RESAMPLE, lambda row: row, self._count, ROLE)

    def _count(self, row: Row) -> bool:
        """What is changed is known when the model is (`count_resampled`)."""
        about = _about(row.values[ROLE])
        if about is not None:
            self.clips[about.samplerate] += 1
        return False


def count_resampled(reports: Mapping[str, Any], rate: int) -> None:
    """Complete the reports of preparation with how many clips are not of the model's rate."""
    clips = reports["sampleRates"]
    reports["cleaning"][RESAMPLE]["changed"] = sum(count for found, count in clips.items() if found != str(rate))


def _about(media: Media) -> Any:
    """What a clip's header says; None if it cannot be read, which the task tells of."""
    import soundfile  # type: ignore[import-untyped]

    try:
        return soundfile.info(media.path or io.BytesIO(media.read()))
    except (OSError, soundfile.SoundFileError):
        return None


def clipped(samples: numpy.ndarray) -> float:
    """The share of samples at full scale."""
    import numpy

    return float((numpy.abs(samples) >= FULL_SCALE).mean())


def _seconds(row: Row) -> float:
    """How long a clip is heard."""
    about, part = _about(row.values[ROLE]), row.values[ROLE].part
    if about is None:
        samples, rate = _samples(row)
        return len(samples) / rate
    first, end = part or (0, about.frames)
    return float((end - first) / about.samplerate)


def _samples(row: Row) -> tuple[numpy.ndarray, int]:
    return read_samples(row.values[ROLE], row.place)


def _is_whole(row: Row) -> bool:
    try:
        _samples(row)
    except DataError:
        return False
    return True
