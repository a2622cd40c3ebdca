"""Images come upright and in colour, sounds in one channel at the model's rate, and broken ones with their row."""

from __future__ import annotations

import io

import numpy
import pytest
import soundfile
from PIL import Image

from finetune_trainer.data.columns import Where, image
from finetune_trainer.data.media import Media, open_audio, open_image
from finetune_trainer.errors import DataError

PLACE = "row 3 of rows.csv"


def media(content: bytes, name: str) -> Media:
    value = image({"bytes": content, "path": name}, Where(PLACE, "column", "image"))
    assert isinstance(value, Media)
    return value


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> Media:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return media(buffer.getvalue(), f"a.{kind.lower()}")


def sound(samples: numpy.ndarray, rate: int, subtype: str | None = None) -> Media:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return media(buffer.getvalue(), "a.wav")


@pytest.mark.parametrize(
    ("picture", "pixel"),
    [
        pytest.param(Image.new("RGB", (2, 2), (1, 2, 3)), (1, 2, 3), id="colour"),
        pytest.param(Image.new("L", (2, 2), 9), (9, 9, 9), id="grey"),
        pytest.param(Image.new("RGBA", (2, 2), (1, 2, 3, 0)), (1, 2, 3), id="transparent"),
        pytest.param(Image.new("1", (2, 2), 1), (255, 255, 255), id="black and white"),
        pytest.param(Image.new("I;16", (2, 2), 0x8000), (128, 128, 128), id="16 bits of grey"),
    ],
)
def test_every_image_becomes_rgb(picture: Image.Image, pixel: tuple[int, int, int]) -> None:
    opened = open_image(encoded(picture), PLACE)
    assert (opened.mode, opened.size, opened.getpixel((0, 0))) == ("RGB", (2, 2), pixel)


def test_an_image_is_turned_as_the_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_image(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif), PLACE)
    assert opened.size == (2, 4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"no image", "no known format", id="another file"),
        pytest.param(b"", "no known format", id="empty"),
        pytest.param(encoded(Image.effect_noise((64, 64), 50)).read()[:2000], "image file is truncated", id="cut"),
    ],
)
def test_an_image_that_cannot_be_read(content: bytes, why: str) -> None:
    with pytest.raises(DataError) as caught:
        open_image(media(content, "a.png"), PLACE)
    assert caught.value.reason == "UnreadableImage"
    assert caught.value.message.startswith(f"{PLACE}: a.png cannot be read as an image: {why}")
    assert "or remove the row" in str(caught.value.hint)


def test_a_sound_is_one_channel_at_the_rate_that_is_asked_for() -> None:
    """A tone of 440 Hz keeps its pitch, length and loudness; the two channels are averaged."""
    time = numpy.arange(44100) / 44100
    tone = numpy.sin(2 * numpy.pi * 440 * time)
    opened = open_audio(sound(numpy.stack([tone, numpy.zeros(44100)], axis=1), 44100), PLACE, 16000)
    assert (opened.samples.dtype, opened.samples.shape, opened.original_rate) == ("float32", (16000,), 44100)
    assert numpy.abs(numpy.fft.rfft(opened.samples)).argmax() == 440
    expected = 0.5 * numpy.sin(2 * numpy.pi * 440 * numpy.arange(16000) / 16000)
    assert numpy.abs(opened.samples - expected)[100:-100].max() < 1e-3


def test_a_sound_at_the_right_rate_is_left_as_it_is() -> None:
    samples = numpy.linspace(-0.5, 0.5, 100, dtype="float32")
    opened = open_audio(sound(samples, 16000, "FLOAT"), PLACE, 16000)
    assert opened.samples.tolist() == samples.tolist()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        pytest.param(media(b"no sound", "a.wav"), "Format not recognised", id="another file"),
        pytest.param(sound(numpy.zeros(0), 16000), "it has no samples", id="empty"),
        pytest.param(
            sound(numpy.array([0.0, numpy.nan]), 16000, "FLOAT"), "it has samples that are not finite", id="NaN"
        ),
    ],
)
def test_a_sound_that_cannot_be_read(value: Media, why: str) -> None:
    with pytest.raises(DataError) as caught:
        open_audio(value, PLACE, 16000)
    assert caught.value.reason == "UnreadableAudio"
    assert caught.value.message.startswith(f"{PLACE}: a.wav cannot be read as sound: {why}")
