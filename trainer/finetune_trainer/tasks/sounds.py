"""Clips as a model's inputs: what all tasks share whose model hears them.

As with images, a clip is decoded once when rows are encoded, which tells of one that cannot be read by its row and
counts its samples, and again for every batch that it is in: a minute of sound needs four megabytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.augment import AudioAugment
from finetune_trainer.data.augment import clips
from finetune_trainer.data.media import open_audio
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import DataError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import pretrained
from finetune_trainer.tasks.base import CHANGED, Example

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)


class Sounds:
    """The feature extractor of a model's folder, and what its model makes of a clip's length.

    `limit` is the most samples that are heard of a clip. Models of waveforms (Wav2Vec2 and its kin) take clips of any
    length; the others take features of a fixed one, such as the 30 seconds of Whisper.
    """

    def __init__(
        self,
        source: ModelFolder,
        model_config: PreTrainedConfig,
        max_length: int | None,
        truncation: bool,
        augment: AudioAugment | None = None,
    ) -> None:
        self.extractor = pretrained.load_feature_extractor(source)
        self.model_config = model_config
        self.rate = int(self.extractor.sampling_rate)
        self.of_waveforms = hasattr(self.model_config, "conv_stride")
        self.truncation = truncation
        self.augment = augment
        fixed = None if self.of_waveforms else getattr(self.extractor, "n_samples", None)
        self.limit = min((limit for limit in (max_length, fixed) if limit is not None), default=None)

    @property
    def pads(self) -> bool:
        """Whether padding can be masked: models that normalize over the whole of a clip see it all the same."""
        return not self.of_waveforms or getattr(self.model_config, "feat_extract_norm", "layer") != "group"

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """The clip of each row with its number of samples at the model's rate, and how many were cut.

        Raises DataError for a clip that cannot be read, is too short to be heard at all, or is too long where clips are
        not to be cut.
        """
        rates: Counter[int] = Counter()
        examples: list[Example] = [self._example(row, rates) for row in rows]
        for rate, count in sorted(rates.items()):
            log.info("%d of %d clips were resampled from %d to %d Hz", count, len(rows), rate, self.rate)
        return examples, sum(example["cut"] for example in examples)

    def _example(self, row: Row, rates: Counter[int]) -> dict[str, Any]:
        sound = open_audio(row.values["audio"], row.place, self.rate)
        if sound.original_rate != self.rate:
            rates[sound.original_rate] += 1
        samples = len(sound.samples)
        if self.of_waveforms and frames(self.model_config, samples) < 1:
            message = f"{row.place}: {row.values['audio'].name} has {samples} samples at {self.rate} Hz"
            hint = f"the model hears nothing in fewer than {shortest(self.model_config)}; remove the row"
            raise DataError("TooShort", message, hint)
        cut = self.limit is not None and samples > self.limit
        if cut and not self.truncation:
            raise self._too_long(row, samples)
        heard = min(samples, self.limit or samples)
        return {"audio": row.values["audio"], "place": row.place, "samples": heard, "cut": cut}

    def _too_long(self, row: Row, samples: int) -> DataError:
        message = f"{row.place}: the clip has {samples} samples, and the model or maxLength allows {self.limit}"
        return DataError("TooLong", message, "shorten it, or cut such clips with spec.training.truncation: true")

    def size(self, example: Example) -> int:
        """Samples at the model's rate."""
        return int(example["samples"])

    def collate(self, examples: Sequence[Example], masked: bool = False) -> dict[str, torch.Tensor]:
        """What the extractor makes of the clips: waveforms padded to the longest, or features of one length.

        With the attention mask where waveforms need it, and of features where the model takes a mask.
        """
        heard = [self._heard(example) for example in examples]
        how: dict[str, Any] = {"return_attention_mask": self.pads if self.of_waveforms else masked}
        if self.of_waveforms:
            how["padding"] = True
        return dict(self.extractor(heard, sampling_rate=self.rate, return_tensors="pt", **how))

    def _heard(self, example: Example) -> numpy.ndarray:
        """The samples of an example, changed if the example is to be."""
        samples = open_audio(example["audio"], example["place"], self.rate).samples
        if self.augment is None or CHANGED not in example:
            return samples[: example["samples"]]
        whole = samples[: example["original"]]
        return clips.changed(whole, self.rate, example["samples"], self.augment, example[CHANGED])

    def augmented(self, example: Example, seed: int, least: int = 1) -> Example:
        """The example with its samples at the speed that it is heard at, of which the model makes `least` frames.

        A clip that would be too short so, or longer than the model takes, keeps its speed.
        """
        samples = example["samples"]
        wanted = clips.length(samples, clips.rate(self.augment.speed, seed)) if self.augment else samples
        fits = (self.limit is None or wanted <= self.limit) and self._frames(wanted) >= least
        return {**example, CHANGED: seed, "original": samples, "samples": wanted if fits else samples}

    def _frames(self, samples: int) -> int:
        return frames(self.model_config, samples) if self.of_waveforms else samples

    def prepare(self, config: PreTrainedConfig, examples: Sequence[Example]) -> None:
        """Let what the model itself masks in training fit the clips; with masks of our own it masks nothing.

        transformers refuses masks that are longer than the shortest clip.
        """
        if self.augment is not None and self.augment.spec_augment is not None:
            config.apply_spec_augment = False
        masked = getattr(config, "mask_time_length", None)
        if self.of_waveforms and masked is not None:
            fastest = self.augment.speed.max_rate if self.augment and self.augment.speed else 1.0
            least = min(frames(config, clips.length(example["samples"], max(fastest, 1.0))) for example in examples)
            config.mask_time_length = min(masked, max(least, 1))

    def save(self, folder: Path) -> None:
        self.extractor.save_pretrained(str(folder))


def frames(config: PreTrainedConfig, samples: int) -> int:
    """How many frames a model of waveforms makes of so many samples; 0 or less if they are too few for one."""
    length = samples
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
    for _ in range(config.num_adapter_layers if getattr(config, "add_adapter", False) else 0):
        length = (length - 1) // config.adapter_stride + 1
    return length


def shortest(config: PreTrainedConfig) -> int:
    """The fewest samples that make a frame."""
    length = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        length = (length - 1) * stride + kernel
    return length
