"""Rows of text, image and audio that only together tell their label."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from support.corpora.pictures import LOOKS
from support.corpora.speech import RATE, VOICES, say
from support.corpora.text import MOODS
from support.debian import ensure
from support.models import FILLERS

SHOWN = ("red", "blue")
SPOKEN = ("yes", "stop")


def letters(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """text, image, audio, label: the mood of the text, the colour of the shape and the spoken word make eight labels.

    Each of the three tells one of two halves: who lacks one is right half of the time at best.
    """
    import soundfile

    ensure("espeak-ng")
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        mood, paint, word = draw.choice(list(MOODS)), draw.choice(SHOWN), draw.choice(SPOKEN)
        words = [*draw.sample(MOODS[mood], 2), *draw.choices(FILLERS, k=4), str(number)]
        draw.shuffle(words)
        draw.choice([look for look in LOOKS if look.paint == paint]).drawn(draw).save(folder / f"{number}.png")
        sound = say(word, draw.choice(VOICES), draw.randint(150, 210), draw.randint(30, 70))
        soundfile.write(folder / f"{number}.wav", sound, RATE)
        files = {"image": f"{number}.png", "audio": f"{number}.wav"}
        rows.append({"text": " ".join(words), **files, "label": f"{mood} {paint} {word}"})
    return rows
