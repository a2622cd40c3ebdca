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

from finetune_trainer.data.media import open_audio
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import DataError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks import pretrained
from finetune_trainer.tasks.base import Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)


class Sounds:
    """The feature extractor of a model's folder, and what its model makes of a clip's length.

    `limit` is the most samples that are heard of a clip. Models of waveforms (Wav2Vec2 and its kin) take clips of any
    length; the others take features of a fixed one, such as the 30 seconds of Whisper.
    """

    def __init__(
        self, source: ModelFolder, model_config: PreTrainedConfig, max_length: int | None, truncation: bool
    ) -> None:
        self.extractor = pretrained.load_feature_extractor(source)
        self.model_config = model_config
        self.rate = int(self.extractor.sampling_rate)
        self.of_waveforms = hasattr(self.model_config, "conv_stride")
        self.truncation = truncation
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
        opened = [open_audio(example["audio"], example["place"], self.rate).samples for example in examples]
        clips = [clip[: example["samples"]] for clip, example in zip(opened, examples, strict=True)]
        how: dict[str, Any] = {"return_attention_mask": self.pads if self.of_waveforms else masked}
        if self.of_waveforms:
            how["padding"] = True
        return dict(self.extractor(clips, sampling_rate=self.rate, return_tensors="pt", **how))

    def shorten_masks(self, config: PreTrainedConfig, examples: Sequence[Example]) -> None:
        """Let what training masks in time be no longer than the shortest clip, which transformers refuses."""
        masked = getattr(config, "mask_time_length", None)
        if self.of_waveforms and masked is not None:
            least = min(frames(config, example["samples"]) for example in examples)
            config.mask_time_length = min(masked, least)

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
