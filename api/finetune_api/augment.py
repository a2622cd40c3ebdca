"""spec.dataset.augment and spec.dataset.balance: training rows changed as they are drawn, and rare classes made up for.

A field that is absent, or zero, changes nothing. What a task can make use of is the task's to say (`augments`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present
from finetune_api.fields import Word


class Synonyms(Document):
    """A word, and what may stand in its place."""

    word: Word = Field(description="A word, in lower case; found in upper case, too.")
    synonyms: Annotated[list[Word], Field(min_length=1, max_length=32)] = Field(
        description="Each of them is as likely."
    )


class TextAugment(Document):
    """Changes of the words that the model reads, never of those that it is to say."""

    word_dropout: float = Field(0.0, ge=0, le=0.9, description="How likely each word is left out.")
    word_swap: float = Field(0.0, ge=0, le=0.9, description="How likely each word changes places with the next.")
    synonyms: Annotated[list[Synonyms], Field(max_length=1000)] = Field([], description="Words that mean the same.")
    synonym_probability: float = Field(0.1, gt=0, le=1, description="How likely a word with synonyms is replaced.")
    character_noise: float = Field(
        0.0, ge=0, le=0.9, description="How likely each letter is dropped, replaced, swapped or joined by another."
    )

    def operations(self) -> tuple[str, ...]:
        """The fields that change something."""
        return _named(
            wordDropout=self.word_dropout,
            wordSwap=self.word_swap,
            synonyms=self.synonyms,
            characterNoise=self.character_noise,
        )


def _ordered(least: str, low: float, most: str, high: float, holds: Callable[[Any], bool]) -> Rule:
    """That one field is not above another; `low` and `high` are their defaults."""
    smaller, larger = (
        f"(has(self.{name}) && dyn(self.{name}) != null ? self.{name} : {default})"
        for name, default in ((least, low), (most, high))
    )
    return Rule(f"{smaller} <= {larger}", holds, f"{least} is above {most}")


class RandAugment(Document):
    """RandAugment (Cubuk et al. 2020): operations drawn from a fixed list, all of one strength."""

    operations: int = Field(2, ge=1, le=10, description="Operations one after the other.")
    magnitude: int = Field(9, ge=0, le=30, description="How strong each of them is; 30 is the strongest.")


class Crop(Document):
    """A part of the image, scaled back to the image's size."""

    min_scale: float = Field(0.5, gt=0, le=1, description="Smallest share of the image's area.")
    max_scale: float = Field(1.0, gt=0, le=1, description="Largest share of the image's area.")
    min_ratio: float = Field(0.75, gt=0, le=10, description="Width over height of the part, at least.")
    max_ratio: float = Field(1.3333, gt=0, le=10, description="Width over height of the part, at most.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        _ordered("minScale", 0.5, "maxScale", 1.0, lambda crop: crop.min_scale <= crop.max_scale),
        _ordered("minRatio", 0.75, "maxRatio", 1.3333, lambda crop: crop.min_ratio <= crop.max_ratio),
    )


class ImageAugment(Document):
    """Changes of images, before the model's image processor sees them."""

    rand_augment: RandAugment | None = Field(None, description="Colours and geometry, drawn from a fixed list.")
    horizontal_flip: float = Field(0.0, ge=0, le=1, description="How likely left and right change places.")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="How likely top and bottom change places.")
    crop: Crop | None = Field(None, description="A part of the image instead of the whole.")
    mixup: float | None = Field(
        None, gt=0, le=10, description="Blend each image and its label with another row's; alpha of the Beta law."
    )
    cutmix: float | None = Field(
        None, gt=0, le=10, description="Paste a part of another row's image, with its share of the label; alpha."
    )

    def operations(self) -> tuple[str, ...]:
        """The fields that change something."""
        return _named(
            randAugment=self.rand_augment,
            horizontalFlip=self.horizontal_flip,
            verticalFlip=self.vertical_flip,
            crop=self.crop,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )


class Noise(Document):
    """White noise below the sound."""

    min_snr_db: float = Field(5.0, ge=-20, le=100, description="Loudest noise: decibels of the sound above it.")
    max_snr_db: float = Field(30.0, ge=-20, le=100, description="Softest noise: decibels of the sound above it.")
    probability: float = Field(0.5, gt=0, le=1, description="How likely a clip gets noise.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        _ordered("minSnrDb", 5.0, "maxSnrDb", 30.0, lambda noise: noise.min_snr_db <= noise.max_snr_db),
    )


class Pitch(Document):
    """Higher or lower; the speed stays."""

    semitones: float = Field(2.0, gt=0, le=12, description="At most so many up or down.")
    probability: float = Field(0.5, gt=0, le=1, description="How likely a clip is shifted.")


class Speed(Document):
    """Faster or slower, as a tape is: the pitch goes along."""

    min_rate: float = Field(0.9, ge=0.5, le=2, description="Slowest.")
    max_rate: float = Field(1.1, ge=0.5, le=2, description="Fastest.")
    probability: float = Field(0.5, gt=0, le=1, description="How likely a clip's speed changes.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        _ordered("minRate", 0.9, "maxRate", 1.1, lambda speed: speed.min_rate <= speed.max_rate),
    )


class SpecAugment(Document):
    """Moments and bands of pitch that are silenced (SpecAugment, Park et al. 2019); instead of the model's own."""

    time_masks: int = Field(2, ge=0, le=50, description="Moments.")
    time_width: float = Field(0.3, gt=0, le=30, description="Longest, in seconds; never above a fifth of the clip.")
    frequency_masks: int = Field(2, ge=0, le=50, description="Bands.")
    frequency_width: float = Field(0.2, gt=0, le=0.9, description="Widest, as a share of the mel scale.")


class AudioAugment(Document):
    """Changes of clips: speed, pitch, noise and masks, in this order."""

    noise: Noise | None = Field(None, description="White noise below the sound.")
    pitch: Pitch | None = Field(None, description="Higher or lower; the speed stays.")
    speed: Speed | None = Field(None, description="Faster or slower; the pitch goes along.")
    spec_augment: SpecAugment | None = Field(None, description="Silenced moments and bands.")

    def operations(self) -> tuple[str, ...]:
        """The fields that change something."""
        return _named(noise=self.noise, pitch=self.pitch, speed=self.speed, specAugment=self.spec_augment)


class Augment(Document):
    """Changes of training rows, others in every epoch; what is evaluated stays as it is."""

    text: TextAugment | None = Field(None, description="Changes of words.")
    image: ImageAugment | None = Field(None, description="Changes of images.")
    audio: AudioAugment | None = Field(None, description="Changes of clips.")

    def operations(self) -> dict[str, tuple[str, ...]]:
        """Modality to the fields that change something; empty if nothing is changed."""
        sections = {"text": self.text, "image": self.image, "audio": self.audio}
        found = {name: section.operations() for name, section in sections.items() if section is not None}
        return {name: fields for name, fields in found.items() if fields}


class ClassWeights(StrEnum):
    NONE = "None"
    BALANCED = "Balanced"
    CUSTOM = "Custom"


class Oversample(StrEnum):
    NONE = "None"
    MINORITY = "Minority"


class ClassWeight(Document):
    """How much the rows of one class count."""

    label: Word = Field(description="A label of the training rows.")
    weight: float = Field(gt=0, le=1_000_000, description="What a row of it counts; those of other labels count 1.")


class Balance(Document):
    """Making up for classes that are rare."""

    class_weights: ClassWeights = Field(
        ClassWeights.NONE, description="Balanced lets all classes count alike in the loss; Custom reads weights."
    )
    weights: Annotated[list[ClassWeight], Field(max_length=1000)] = Field([], description="With Custom.")
    oversample: Oversample = Field(
        Oversample.NONE, description="Minority lets an epoch have the rows of each class as often as the largest has."
    )
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"({present('classWeights')} && self.classWeights == 'Custom')"
            f" == ({present('weights')} && self.weights.size() > 0)",
            lambda balance: (balance.class_weights is ClassWeights.CUSTOM) == bool(balance.weights),
            "set weights with classWeights: Custom, and only with it",
        ),
    )


def _named(**values: object) -> tuple[str, ...]:
    return tuple(name for name, value in values.items() if value)
