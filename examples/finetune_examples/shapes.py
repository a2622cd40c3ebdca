"""Draws a folder of images for image-classification: six shapes, of any size, colour and place, on any ground.

`python -m finetune_examples.shapes FOLDER [--count 600] [--seed 0]` makes FOLDER/<shape>/<number>.png.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 96
"""Pixels of an image's side."""
Point = tuple[float, float]
Colour = tuple[int, int, int]


def polygon(corners: int, inner: float = 1.0) -> Callable[[ImageDraw.ImageDraw, Point, float, float, Colour], None]:
    """A regular polygon, or with an `inner` radius below 1 a star, that is turned by an angle in radians."""

    def drawn(canvas: ImageDraw.ImageDraw, centre: Point, radius: float, angle: float, colour: Colour) -> None:
        steps = corners if inner == 1.0 else 2 * corners
        reach = [radius * (1.0 if step % 2 == 0 else inner) for step in range(steps)]
        turns = [angle + 2 * math.pi * step / steps for step in range(steps)]
        canvas.polygon(
            [
                (centre[0] + far * math.cos(turn), centre[1] + far * math.sin(turn))
                for far, turn in zip(reach, turns, strict=True)
            ],
            fill=colour,
        )

    return drawn


def circle(canvas: ImageDraw.ImageDraw, centre: Point, radius: float, angle: float, colour: Colour) -> None:  # noqa: ARG001
    canvas.ellipse([centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius], fill=colour)


def ring(canvas: ImageDraw.ImageDraw, centre: Point, radius: float, angle: float, colour: Colour) -> None:  # noqa: ARG001
    box = [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
    canvas.ellipse(box, outline=colour, width=max(2, round(radius / 3)))


SHAPES = {
    "circle": circle,
    "ring": ring,
    "triangle": polygon(3),
    "square": polygon(4),
    "star": polygon(5, inner=0.45),
    "cross": polygon(4, inner=0.25),
}


def image(shape: str, draw: random.Random) -> Image.Image:
    """One shape, seen as chance will have it."""
    ground, colour = _colours(draw)
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    radius = draw.uniform(0.2, 0.42) * SIDE
    centre = (draw.uniform(radius, SIDE - radius), draw.uniform(radius, SIDE - radius))
    SHAPES[shape](ImageDraw.Draw(picture), centre, radius, draw.uniform(0, 2 * math.pi), colour)
    return picture


def _colours(draw: random.Random) -> tuple[Colour, Colour]:
    """A ground and a colour that can be told from it."""
    while True:
        first, second = (tuple(draw.randrange(256) for _ in range(3)) for _ in range(2))
        if sum(abs(one - other) for one, other in zip(first, second, strict=True)) > 200:
            return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m finetune_examples.shapes")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=600, help="images of all shapes together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw = random.Random(options.seed)
    for number in range(options.count):
        shape = list(SHAPES)[number % len(SHAPES)]
        path = options.folder / shape / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(shape, draw).save(path)


if __name__ == "__main__":
    main()
