"""image-text-contrastive: images and texts in one space, where each image lies next to its own text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError
from finetune_trainer.metrics import retrieval
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Example, Goal, Report, TaskKind, wrong_row
from finetune_trainer.tasks.images import Images

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn
    from transformers import PreTrainedModel

MOST_SCALE = math.log(100)
"""CLIP's authors let similarities be multiplied by no more than 100; here it is the logarithm that is trained."""


@dataclass(frozen=True)
class Pair:
    """Where a row's image and text lie, both of length one, and what the model multiplies similarities by."""

    image: numpy.ndarray
    text: numpy.ndarray
    scale: float


class ImageTextContrastive(TaskKind):
    """The loss compares each image of a step with all its texts and the other way round, counted in pairs."""

    roles = Roles({"image": columns.image, "text": columns.text}, needed=(("image", "text"),))
    inputs = ("image", "text")
    auto_classes = ("AutoModelForZeroShotImageClassification",)
    parts = (Part.TOKENIZER, Part.IMAGE_PROCESSOR)
    augments = {"image": augments.PICTURES, "text": augments.WORDS}
    reworded_roles = ("text",)
    goal = Goal("recall@1")
    whole_batch = True
    usage = """\
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained("model"), CLIPProcessor.from_pretrained("model")
texts = ["a text", "another text"]
inputs = processor(text=texts, images=Image.open("picture.png"), padding=True, return_tensors="pt")
model(**inputs).logits_per_image.softmax(-1)"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)
        self.images = Images(source, self.augment.image if self.augment else None)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForZeroShotImageClassification

        config = pretrained.load_config(self.source, self.config)
        model, new = pretrained.load_weights(AutoModelForZeroShotImageClassification, self.source, self.config, config)
        if not hasattr(model, "logit_scale") or hasattr(model, "logit_bias"):
            message = f"spec.model.uri: a {self.source.model_type} model does not compare images and texts as CLIP does"
            raise ConfigError("UnsupportedModel", message, "use a CLIP model")
        return model, new

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        encoded, cut = self._encode_texts(rows)
        opened, _ = self.images.encode(rows)
        return [{**text, **image} for text, image in zip(encoded, opened, strict=True)], cut

    def _encode_texts(self, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], int]:
        limit = texts.longest(self.source, self.tokenizer, self.config)
        return texts.encode(self.tokenizer, rows, limit, self.training.truncation)

    def encode_words(self, row: Row) -> Example:
        """The image is not opened for it."""
        return self._encode_texts([row])[0][0]

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        inputs = texts.pad(self.tokenizer, examples) | self.images.collate(examples)
        return Batch(inputs, {}, len(examples), sum(self.size(example) for example in examples))

    def embed(self, outputs: Any) -> tuple[torch.Tensor, ...]:
        return outputs.image_embeds, outputs.text_embeds

    def contrast(self, model: nn.Module, *embeddings: torch.Tensor) -> torch.Tensor:
        images, captions = embeddings
        return _contrast(images.float(), captions.float(), _scale(model))

    def shared_parameters(self, model: Any) -> list[nn.Parameter]:
        return [model.logit_scale]

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        images, captions = (tensor.float().cpu().numpy() for tensor in self.embed(outputs))
        scale = float(_scale(model))
        return [Pair(image, caption, scale) for image, caption in zip(images, captions, strict=True)]

    def present(self, prediction: Pair) -> dict[str, Any]:
        """How near image and text are, from -1 to 1."""
        return {"similarity": round(float(prediction.image @ prediction.text), 4)}

    def judge(self, rows: Sequence[Row], predictions: Sequence[Pair], baseline: Sequence[Row] | None) -> Report:
        import numpy

        images = numpy.stack([pair.image for pair in predictions])
        captions = numpy.stack([pair.text for pair in predictions])
        said = [str(row.values["text"]) for row in rows]
        values = retrieval.retrieval(images, captions, said)
        if len(rows) > 1:
            values["recall@1"] = (values["image_to_text_recall@1"] + values["text_to_image_recall@1"]) / 2
        if baseline is not None:
            values["baseline_recall@1"] = sum(said.count(text) for text in said) / len(said) ** 2
        values["loss"] = self._loss(images, captions, predictions[0].scale)
        return Report(values, errors=_errors(rows, images, captions, said))

    def measure_part(self, rows: Sequence[Row], predictions: Sequence[Pair], places: Sequence[int]) -> dict[str, float]:
        """Each of the rows is still looked for among all."""
        import numpy

        images = numpy.stack([pair.image for pair in predictions])
        captions = numpy.stack([pair.text for pair in predictions])
        groups = retrieval.numbered([str(row.values["text"]) for row in rows])
        own = groups[list(places)]
        ranks = [
            retrieval.ranks(queries[list(places)], candidates, groups, own)
            for queries, candidates in ((images, captions), (captions, images))
        ]
        return {self.goal.metric: float((numpy.concatenate(ranks) <= 1).mean())}

    def _loss(self, images: numpy.ndarray, captions: numpy.ndarray, scale: float) -> float:
        """The mean over groups as large as an optimizer step, so that it compares with the training loss."""
        import torch

        step, total = self.training.train_batch_size, 0.0
        for start in range(0, len(images), step):
            part = [torch.from_numpy(array[start : start + step]) for array in (images, captions)]
            total += float(_contrast(part[0], part[1], torch.tensor(scale)))
        return total / len(images)

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)
        self.images.save(folder)


def _scale(model: Any) -> torch.Tensor:
    scale: torch.Tensor = model.logit_scale.float().clamp(max=MOST_SCALE).exp()
    return scale


def _contrast(images: torch.Tensor, captions: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Half of both directions' cross-entropy, summed over the pairs; embeddings are of shape (pairs, dimensions)."""
    import torch
    from torch.nn import functional

    similar, own = images @ captions.T * scale, torch.arange(len(images), device=images.device)
    to_texts = functional.cross_entropy(similar, own, reduction="sum")
    to_images = functional.cross_entropy(similar.T, own, reduction="sum")
    return (to_texts + to_images) / 2


def _errors(
    rows: Sequence[Row], images: numpy.ndarray, captions: numpy.ndarray, said: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows whose image is nearest to another text, those with the most other texts before their own first."""
    import numpy

    _, groups = numpy.unique(numpy.array(said), return_inverse=True)
    ranks = retrieval.ranks(images, captions, groups)
    worst = [int(place) for place in numpy.argsort(-ranks, kind="stable") if ranks[place] > 1][:MOST_ERRORS]
    return [
        wrong_row(rows[place], prediction=said[int((captions @ images[place]).argmax())], rank=int(ranks[place]))
        for place in worst
    ]
