"""Makes clips of Morse code for speech recognition: words of any pitch and speed, with a little noise.

`python -m finetune_examples.morse FOLDER [--count 400] [--seed 0]` makes FOLDER/clips.jsonl, with the columns audio and
text, and the clips beside it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy
import soundfile  # type: ignore[import-untyped]

RATE = 16_000
CODE = {
    "A": ".-", "B": "-...", "C": "-.-.", "D": "-..", "E": ".", "F": "..-.", "G": "--.", "H": "....", "I": "..",
    "J": ".---", "K": "-.-", "L": ".-..", "M": "--", "N": "-.", "O": "---", "P": ".--.", "Q": "--.-", "R": ".-.",
    "S": "...", "T": "-", "U": "..-", "V": "...-", "W": ".--", "X": "-..-", "Y": "-.--", "Z": "--..",
}  # fmt: skip
WORDS = ("ANCHOR", "NORTH", "SOUTH", "HARBOUR", "SHIP", "WIND", "STORM", "HELP", "ALL", "WELL", "LIGHT", "SAIL", "TIDE")


def keyed(text: str, unit: float) -> list[tuple[bool, float]]:
    """Whether the key is down, and for how many seconds: a dash is three units, a gap of words seven (ITU-R M.1677)."""
    found: list[tuple[bool, float]] = []
    for word in text.split():
        for letter in word:
            for sign in CODE[letter]:
                found += [(True, unit * (3 if sign == "-" else 1)), (False, unit)]
            found.append((False, 2 * unit))
        found.append((False, 4 * unit))
    return found


def clip(text: str, draw: random.Random) -> numpy.ndarray:
    """The sound of a text, float32 of shape (frames,) at 16 kHz."""
    pitch, unit, noise = draw.uniform(400, 900), draw.uniform(0.03, 0.05), draw.uniform(0.0, 0.02)
    level = numpy.concatenate([numpy.full(round(seconds * RATE), float(down)) for down, seconds in keyed(text, unit)])
    # A key that is not pressed at once does not click.
    level = numpy.convolve(level, numpy.hanning(80) / numpy.hanning(80).sum(), mode="same")
    tone = numpy.sin(2 * numpy.pi * pitch * numpy.arange(len(level)) / RATE)
    hiss = numpy.random.default_rng(draw.randrange(2**32)).normal(0.0, noise, len(level))
    sound: numpy.ndarray = (0.5 * level * tone + hiss).astype(numpy.float32)
    return sound


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m finetune_examples.morse")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400, help="clips")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw = random.Random(options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "clips.jsonl").open("w", encoding="utf-8") as table:
        for number in range(options.count):
            text, name = " ".join(draw.choices(WORDS, k=draw.randint(1, 2))), f"{number:04}.wav"
            soundfile.write(options.folder / name, clip(text, draw), RATE)
            table.write(json.dumps({"audio": name, "text": text}) + "\n")


if __name__ == "__main__":
    main()
