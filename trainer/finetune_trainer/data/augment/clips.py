"""Clips that are faster or slower, higher or lower, noisy, or silent at times and in bands.

SpecAugment is carried out on the waveform, so that models of waveforms and of features hear the same: a moment is
silenced, and a band of the mel scale is cut out of the spectrum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from finetune_api.augment import AudioAugment, Noise, Pitch, SpecAugment, Speed
from finetune_trainer.data.augment.draws import generator

if TYPE_CHECKING:
    import numpy

LONGEST_SHARE = 0.2
"""Of a clip that one mask may silence, as in SpecAugment's policies for short clips."""


def rate(speed: Speed | None, seed: int) -> float:
    """How many times as fast the clip is."""
    draw = generator(seed, "speed")
    if speed is None or draw.random() >= speed.probability:
        return 1.0
    return float(draw.uniform(speed.min_rate, speed.max_rate))


def length(samples: int, rate: float) -> int:
    """Samples of a clip that is `rate` times as fast."""
    return max(1, round(samples / rate))


def changed(samples: numpy.ndarray, hertz: int, wanted: int, settings: AudioAugment, seed: int) -> numpy.ndarray:
    """A clip of `wanted` samples; its speed follows from them."""
    if wanted != len(samples):
        samples = _at_speed(samples, wanted)
    if settings.pitch is not None:
        samples = _shifted(samples, hertz, settings.pitch, seed)
    if settings.noise is not None:
        samples = _noisy(samples, settings.noise, seed)
    if settings.spec_augment is not None:
        samples = _masked(samples, hertz, settings.spec_augment, seed)
    return samples


def _at_speed(samples: numpy.ndarray, wanted: int) -> numpy.ndarray:
    import numpy
    import soxr  # type: ignore[import-untyped]

    resampled: numpy.ndarray = soxr.resample(samples, len(samples), wanted, quality="HQ")[:wanted]
    return numpy.pad(resampled, (0, wanted - len(resampled)))


def _shifted(samples: numpy.ndarray, hertz: int, pitch: Pitch, seed: int) -> numpy.ndarray:
    draw = generator(seed, "pitch")
    if draw.random() >= pitch.probability:
        return samples
    import numpy
    from python_stretch import Signalsmith

    stretch = Signalsmith.Stretch(seed)
    stretch.preset(1, hertz)
    stretch.setTransposeSemitones(float(draw.uniform(-pitch.semitones, pitch.semitones)))
    shifted: numpy.ndarray = numpy.asarray(stretch.process(samples[None]))[0]
    return shifted


def _noisy(samples: numpy.ndarray, noise: Noise, seed: int) -> numpy.ndarray:
    """Silence stays silent: there is nothing that the noise could be below."""
    draw = generator(seed, "noise")
    if draw.random() >= noise.probability:
        return samples
    decibels = draw.uniform(noise.min_snr_db, noise.max_snr_db)
    power = float((samples.astype("float64") ** 2).mean())
    strength = math.sqrt(power / 10 ** (decibels / 10))
    return (samples + draw.normal(0.0, strength, len(samples))).astype("float32")


def _masked(samples: numpy.ndarray, hertz: int, masks: SpecAugment, seed: int) -> numpy.ndarray:
    import numpy

    draw, masked = generator(seed, "masks"), samples.copy()
    if masks.frequency_masks:
        masked = _without_bands(masked, hertz, draw.random((masks.frequency_masks, 2)) * [masks.frequency_width, 1.0])
    longest = min(masks.time_width * hertz, LONGEST_SHARE * len(samples))
    for size, where in draw.random((masks.time_masks, 2)):
        width = int(size * longest)
        start = int(where * (len(samples) - width))
        masked[start : start + width] = 0.0
    return numpy.ascontiguousarray(masked)


def _without_bands(samples: numpy.ndarray, hertz: int, bands: numpy.ndarray) -> numpy.ndarray:
    """`bands` has for each its width on the mel scale, and where it lies in what is left: both from 0 to 1."""
    import numpy

    spectrum = numpy.fft.rfft(samples)
    mels = numpy.log1p(numpy.fft.rfftfreq(len(samples), 1 / hertz) / 700) / math.log1p(hertz / 2 / 700)
    for width, where in bands:
        low = where * (1.0 - width)
        spectrum[(mels >= low) & (mels < low + width)] = 0.0
    return numpy.fft.irfft(spectrum, len(samples)).astype("float32")
