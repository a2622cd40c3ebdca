"""Clips that are faster or slower, higher or lower, noisy, or masked: each change by itself, and all by one seed."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from finetune_api.augment import AudioAugment
from finetune_trainer.data.augment import clips

RATE = 16_000
TONE = 440
SEEDS = range(40)
CLIP = (0.5 * numpy.sin(2 * numpy.pi * TONE * numpy.arange(RATE) / RATE)).astype("float32")
HISS = numpy.random.default_rng(0).normal(0, 0.1, RATE).astype("float32")


def variant(seed: int, clip: numpy.ndarray = CLIP, **settings: Any) -> numpy.ndarray:
    """The clip as a seed changes it."""
    wanted = AudioAugment.model_validate(settings)
    return clips.changed(clip, RATE, clips.length(len(clip), clips.rate(wanted.speed, seed)), wanted, seed)


def pitch(clip: numpy.ndarray) -> float:
    """The loudest frequency."""
    return float(numpy.abs(numpy.fft.rfft(clip)).argmax() * RATE / len(clip))


def decibels(clip: numpy.ndarray) -> float:
    """How far the clip is above what was put in."""
    noise = (variant_noise := clip - CLIP).var()
    assert variant_noise.shape == CLIP.shape
    return float(10 * numpy.log10(CLIP.var() / noise)) if noise else numpy.inf


def test_without_settings_a_clip_stays() -> None:
    assert all((variant(seed) == CLIP).all() for seed in SEEDS)


def test_speed_changes_length_and_pitch_alike() -> None:
    found = [variant(seed, speed={"minRate": 0.8, "maxRate": 1.25, "probability": 1.0}) for seed in SEEDS]
    rates = numpy.array([len(CLIP) / len(clip) for clip in found])
    assert 0.8 <= rates.min() < 0.9 < 1.1 < rates.max() <= 1.25
    assert [pitch(clip) for clip in found] == pytest.approx(list(TONE * rates), rel=0.01)


def test_pitch_changes_and_the_length_stays() -> None:
    found = [variant(seed, pitch={"semitones": 3, "probability": 1.0}) for seed in SEEDS]
    semitones = [12 * numpy.log2(pitch(clip) / TONE) for clip in found]
    assert {len(clip) for clip in found} == {len(CLIP)}
    assert -3.2 < min(semitones) < -1.5 < 1.5 < max(semitones) < 3.2


def test_noise_is_as_far_below_as_was_asked() -> None:
    found = [decibels(variant(seed, noise={"minSnrDb": 10, "maxSnrDb": 20, "probability": 1.0})) for seed in SEEDS]
    assert 9.8 < min(found) < 13 < 17 < max(found) < 20.2


@pytest.mark.parametrize("change", ["noise", "pitch", "speed"])
def test_a_change_comes_as_often_as_was_asked(change: str) -> None:
    changed = [not numpy.array_equal(variant(seed, **{change: {"probability": 0.5}}), CLIP) for seed in SEEDS]
    assert 10 < sum(changed) < 30


def test_silence_gets_no_noise() -> None:
    silence = numpy.zeros(RATE, dtype="float32")
    assert not variant(1, silence, noise={"probability": 1.0}).any()


def test_moments_are_silenced() -> None:
    """No more of them and no longer than was asked, and never more than a fifth of the clip by one."""
    masks = {"timeMasks": 2, "timeWidth": 0.1, "frequencyMasks": 0}
    found = [variant(seed, HISS, specAugment=masks) for seed in SEEDS]
    silent = [int((clip == 0).sum()) for clip in found]
    assert 0.05 * RATE < sum(silent) / len(silent) < 0.15 * RATE
    assert max(silent) <= 0.2 * RATE
    assert all((clip == HISS)[clip != 0].all() for clip in found)
    long = [variant(seed, HISS, specAugment={"timeMasks": 1, "timeWidth": 30, "frequencyMasks": 0}) for seed in SEEDS]
    assert max(int((clip == 0).sum()) for clip in long) <= 0.2 * RATE


def test_bands_are_cut_out() -> None:
    """Of the mel scale, no wider than was asked; the rest of the spectrum stays."""
    masks = {"timeMasks": 0, "frequencyMasks": 1, "frequencyWidth": 0.2}
    before, shares = numpy.abs(numpy.fft.rfft(HISS)), []
    mels = numpy.log1p(numpy.fft.rfftfreq(RATE, 1 / RATE) / 700)
    for seed in SEEDS:
        after = numpy.abs(numpy.fft.rfft(variant(seed, HISS, specAugment=masks)))
        gone = after < 0.01 * before
        numpy.testing.assert_allclose(after[~gone], before[~gone], rtol=1e-2, atol=1e-3)
        band = mels[gone]
        shares.append((band.max() - band.min()) / mels.max() if len(band) else 0.0)
    assert 0.05 < sum(shares) / len(shares) < 0.15
    assert max(shares) <= 0.21


def test_a_seed_says_it_all() -> None:
    settings: dict[str, Any] = {"noise": {}, "pitch": {}, "speed": {}, "specAugment": {}}
    found = [variant(seed, **settings) for seed in SEEDS]
    assert all(clip.dtype == numpy.float32 for clip in found)
    assert all(numpy.array_equal(variant(seed, **settings), found[seed]) for seed in SEEDS)
    assert len({clip.tobytes() for clip in found}) == len(found)


@pytest.mark.parametrize("samples", [1, 5, 401])
def test_even_a_very_short_clip_can_be_changed(samples: int) -> None:
    settings: dict[str, Any] = {"noise": {}, "pitch": {}, "speed": {}, "specAugment": {}}
    assert all(len(variant(seed, CLIP[:samples], **settings)) for seed in SEEDS)
