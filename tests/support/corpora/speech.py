"""Speech of many voices, made by espeak-ng from words."""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.debian import ensure

if TYPE_CHECKING:
    import numpy

Row = dict[str, Any]

RATE = 16_000
SPOKEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = tuple(f"en-us+{variant}" for variant in ("m1", "m3", "m7", "f1", "f2", "f4"))


def words(folder: Path, count: int, seed: int = 0, spoken: Sequence[str] = SPOKEN, rate: int = RATE) -> list[Row]:
    """audio, label: single words, each about equally often."""
    draw = random.Random(seed)
    labels = [spoken[number % len(spoken)] for number in range(count)]
    return [{"audio": name, "label": label} for name, label in _recorded(folder, labels, draw, rate)]


def phrases(
    folder: Path, count: int, seed: int = 0, spoken: Sequence[str] = SPOKEN, longest: int = 3, rate: int = RATE
) -> list[Row]:
    """audio, text: two to `longest` words after each other."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(spoken, k=draw.randint(2, longest))) for _ in range(count)]
    return [{"audio": name, "text": text} for name, text in _recorded(folder, texts, draw, rate)]


def say(text: str, voice: str, speed: int, pitch: int, rate: int = RATE) -> numpy.ndarray:
    """One voice's sound, float32 of shape (frames,), without the silence around it.

    `speed` is in words a minute, `pitch` from 0 to 99, `rate` in frames a second.
    """
    import numpy
    import soundfile
    import soxr

    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    done = subprocess.run(command, check=True, capture_output=True)
    samples, original = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    loud = numpy.flatnonzero(numpy.abs(samples) > 0.01)
    return soxr.resample(samples[loud[0] : loud[-1] + 1], original, rate)


def _recorded(folder: Path, texts: Sequence[str], draw: random.Random, rate: int) -> list[tuple[str, str]]:
    import soundfile

    ensure("espeak-ng")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, text in enumerate(texts):
        sound = say(text, draw.choice(VOICES), draw.randint(150, 210), draw.randint(30, 70), rate)
        soundfile.write(folder / f"{number}.wav", sound, rate)
        found.append((f"{number}.wav", text))
    return found
