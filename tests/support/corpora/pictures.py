"""Pictures: handwritten digits of scikit-learn, and coloured shapes with words about them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

Row = dict[str, Any]

SIDE = 32
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = {"small": 4, "big": 9}
"""Half the width of a shape in pixels."""
PAINTS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 230), "yellow": (240, 220, 40)}
GROUNDS = {"white": (250, 250, 250), "black": (15, 15, 15)}
SHAPES = ("circle", "square", "triangle")
SIDES = {"left": 10, "right": 20}
"""Where the middle of a shape is at least, in pixels from the left."""


def digits(folder: Path, count: int, seed: int = 0) -> list[Row]:
    """image, label: people's handwriting, as many of each digit as the data has."""
    from PIL import Image
    from sklearn import datasets  # type: ignore[import-untyped]

    data = datasets.load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in random.Random(seed).sample(range(len(data.images)), count):
        grey = Image.fromarray((data.images[number] * 15.9).astype("uint8"))
        grey.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": DIGITS[data.target[number]]})
    return rows


def captioned(folder: Path, count: int, seed: int = 0) -> list[Row]:
    """image, text: "a small red circle left on white ground", each of 96 such captions about equally often."""
    return [{"image": name, "text": look.caption} for name, look in _drawn(folder, count, seed)]


def asked(folder: Path, count: int, seed: int = 0) -> list[Row]:
    """image, prompt, completion: the colour, the shape or the size of what is drawn."""
    draw = random.Random(seed)
    rows = []
    for name, look in _drawn(folder, count, seed):
        known = {"what colour": look.paint, "what shape": look.shape, "what size": look.size}
        question = draw.choice(list(known))
        rows.append({"image": name, "prompt": f"{question} is it ?", "completion": f" {known[question]}"})
    return rows


@dataclass(frozen=True)
class Look:
    """What is on a picture."""

    size: str
    paint: str
    shape: str
    side: str
    ground: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.paint} {self.shape} {self.side} on {self.ground} ground"

    def drawn(self, draw: random.Random) -> Image.Image:
        """The picture; where exactly the shape is follows from `draw`."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (SIDE, SIDE), GROUNDS[self.ground])
        pen, half = ImageDraw.Draw(image), SIZES[self.size]
        x, y = SIDES[self.side] + draw.randint(0, 2), draw.randint(10, 22)
        box = (x - half, y - half, x + half, y + half)
        if self.shape == "circle":
            pen.ellipse(box, fill=PAINTS[self.paint])
        elif self.shape == "square":
            pen.rectangle(box, fill=PAINTS[self.paint])
        else:
            pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=PAINTS[self.paint])
        return image


LOOKS = tuple(Look(*look) for look in product(SIZES, PAINTS, SHAPES, SIDES, GROUNDS))


def _drawn(folder: Path, count: int, seed: int) -> Iterator[tuple[str, Look]]:
    """The name of each file, and what is on it."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = [look for _ in range(0, count, len(LOOKS)) for look in draw.sample(LOOKS, len(LOOKS))]
    for number, look in enumerate(shuffled[:count]):
        look.drawn(draw).save(folder / f"{number}.png")
        yield f"{number}.png", look
