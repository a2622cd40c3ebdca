"""Small pictures and sounds of the rows that went wrong: made when the results are written, shown in the page later."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import files
from finetune_trainer.data.media import Media, open_audio, open_image
from finetune_trainer.data.rows import Row

log = logging.getLogger(__name__)
SHOWN = 24
"""Rows of errors.jsonl that keep their media."""
SIDE = 160
"""Pixels of a thumbnail's longer side."""
RATE = 16_000
SECONDS = 10
PICTURE, SOUND = ".jpg", ".mp3"
TINY = 64
"""Pixels below which a picture is shown enlarged, with hard edges."""


@dataclass(frozen=True)
class Shown:
    """A picture or a sound as a page has it."""

    role: str
    uri: str
    is_sound: bool
    is_tiny: bool = False


def keep_media(folder: Path, errors: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> None:
    """Write the media of the first wrong rows below the run's folder as `errors/<place in errors.jsonl>.<role>.…`.

    A row whose media cannot be made smaller is left out with a warning: the results matter more.
    """
    wanted = {(error.get("source"), error.get("row")): place for place, error in enumerate(errors[:SHOWN])}
    if not any(isinstance(value, dict) and "sha256" in value for error in errors[:SHOWN] for value in error.values()):
        return
    target = folder / files.ERROR_MEDIA
    files.remove(target)
    target.mkdir()
    for row in rows:
        place = wanted.get((row.source, row.number))
        if place is not None:
            _keep(target, place, row)


def _keep(target: Path, place: int, row: Row) -> None:
    for role, value in row.values.items():
        if isinstance(value, Media):
            try:
                ending, content = _small(role, value, row.place)
                (target / f"{place}.{role}{ending}").write_bytes(content)
            except Exception as error:
                log.warning("the report shows no %s of %s: %s", role, row.place, error)


def _small(role: str, media: Media, place: str) -> tuple[str, bytes]:
    return (SOUND, clip(media, place)) if role == "audio" else (PICTURE, thumbnail(media, place))


def thumbnail(media: Media, place: str) -> bytes:
    """A JPEG of at most SIDE pixels a side."""
    image, out = open_image(media, place), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(out, "JPEG", quality=88, subsampling=0, optimize=True)
    return out.getvalue()


def clip(media: Media, place: str) -> bytes:
    """The first seconds in one channel as MP3, which every browser plays and is a tenth of a WAV."""
    import soundfile  # type: ignore[import-untyped]

    sound, out = open_audio(media, place, RATE), io.BytesIO()
    soundfile.write(out, sound.samples[: SECONDS * RATE], RATE, format="MP3")
    return out.getvalue()


def shown_media(folder: Path, most: int) -> dict[int, list[Shown]]:
    """The kept media by the row's place in errors.jsonl, the first ones, as far as `most` characters go."""
    found: dict[int, list[Shown]] = {}
    for path in _kept(folder / files.ERROR_MEDIA):
        content = base64.b64encode(path.read_bytes()).decode()
        most -= len(content)
        if most < 0:
            break
        place, role = path.stem.split(".", 1)
        found.setdefault(int(place), []).append(_shown(path, role, content))
    return found


def _kept(folder: Path) -> Iterator[Path]:
    """Files with names that we give, by the row's place."""
    named = [path for path in folder.glob("*.*.*") if path.suffix in (PICTURE, SOUND) and path.stem.count(".") == 1]
    numbered = [path for path in named if path.name.split(".")[0].isdigit()]
    yield from sorted(numbered, key=lambda path: (int(path.name.split(".")[0]), path.name))


def _shown(path: Path, role: str, content: str) -> Shown:
    if path.suffix == SOUND:
        return Shown(role, f"data:audio/mpeg;base64,{content}", True)
    return Shown(role, f"data:image/jpeg;base64,{content}", False, _is_tiny(path))


def _is_tiny(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        return max(image.size) <= TINY
