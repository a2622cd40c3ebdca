"""Images and sounds in rows: kept as files or bytes, decoded when a task encodes them."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    import numpy
    from PIL import Image

IMAGES_THAT_WORK = "give a PNG, JPEG, WebP, BMP, GIF or TIFF file, or remove the row"
SOUNDS_THAT_WORK = "give a WAV, FLAC, OGG or MP3 file with at least one sample, or remove the row"


class Value(ABC):
    """A role's value of a type of our own."""

    @abstractmethod
    def plain(self) -> Any:
        """What identifies it, as JSON can hold it."""


@dataclass(frozen=True)
class Media(Value):
    """An encoded image or sound: a file, or bytes. `name` is short, for messages; `sha256` is that of the bytes.

    `part` is what of a sound is heard: its first frame, and the one after its last, at its own rate; None: all of it.
    """

    name: str
    path: str | None
    content: bytes | None
    sha256: str
    part: tuple[int, int] | None = None

    def read(self) -> bytes:
        """The encoded bytes."""
        return self.content if self.content is not None else Path(str(self.path)).read_bytes()

    def plain(self) -> dict[str, Any]:
        part = {} if self.part is None else {"part": list(self.part)}
        return {"path": self.name, "sha256": self.sha256, **part}


@dataclass(frozen=True)
class Sound:
    """Samples of one channel as 32-bit floats, (frames,), and the rate in Hz before resampling."""

    samples: numpy.ndarray
    original_rate: int


def open_image(media: Media, place: str) -> Image.Image:
    """The image in RGB, upright as its EXIF data says. Raises DataError if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(media.read()))
        return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"{place}: {media.name} cannot be read as an image: {_without_buffer(error)}"
        raise DataError("UnreadableImage", message, IMAGES_THAT_WORK) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Images of 16 bits a pixel are scaled: Pillow's own conversion would cut everything above 255 to white."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGB")


def _without_buffer(error: Exception) -> str:
    """What Pillow says, without the address of the buffer that it names when it knows no format."""
    text = str(error)
    return "no known format" if "BytesIO" in text else text


def open_audio(media: Media, place: str, rate: int) -> Sound:
    """The sound in one channel at `rate` Hz. Raises DataError if it is empty or cannot be read."""
    import soxr  # type: ignore[import-untyped]

    samples, original = read_samples(media, place)
    if original != rate:
        samples = soxr.resample(samples, original, rate, quality="HQ")
    return Sound(samples, original)


def read_samples(media: Media, place: str) -> tuple[numpy.ndarray, int]:
    """The sound in one channel at its own rate, and the rate in Hz. Raises DataError as `open_audio` does."""
    import numpy
    import soundfile  # type: ignore[import-untyped]

    try:
        channels, rate = soundfile.read(io.BytesIO(media.read()), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise _unreadable_audio(media, place, _without_address(error)) from error
    if not len(channels):
        raise _unreadable_audio(media, place, "it has no samples")
    if not numpy.isfinite(channels).all():
        raise _unreadable_audio(media, place, "it has samples that are not finite")
    return channels[slice(*(media.part or (None,)))].mean(axis=1), int(rate)


def _without_address(error: Exception) -> str:
    """What libsndfile says, without the address of the buffer that it read."""
    return str(getattr(error, "error_string", error))


def _unreadable_audio(media: Media, place: str, why: str) -> DataError:
    return DataError("UnreadableAudio", f"{place}: {media.name} cannot be read as sound: {why}", SOUNDS_THAT_WORK)


def media_size(media: Media, role: str) -> float:
    """How much a file says that it holds: seconds of a sound, an image's longer side in pixels; NaN if it says nothing.

    Only its head is read.
    """
    import soundfile
    from PIL import Image

    file = io.BytesIO(media.content) if media.content is not None else str(media.path)
    try:
        return float(soundfile.info(file).duration) if role == "audio" else float(max(Image.open(file).size))
    except (OSError, ValueError, SyntaxError, soundfile.SoundFileError, Image.DecompressionBombError):
        return float("nan")


def plain(value: Any) -> Any:
    """A role's value as JSON can hold it; of an image or sound its name and hash."""
    if isinstance(value, Value):
        return value.plain()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
