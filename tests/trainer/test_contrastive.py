"""A step of image-text-contrastive has the gradient of one large batch, however few rows the model sees at once.

The reference is written with plain torch and transformers: all rows' embeddings in one graph, one loss over all of
them, one backward.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune_api.run import RunConfig
from finetune_trainer.data.media import open_image
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sampler import Sampler, draw_seed, micro_batches
from finetune_trainer.data.split import Side
from support import zoo
from support.cases_media import CLIP
from support.corpora import pictures
from support.runs import ARun, WarmTrainer
from support.step_gradients import Tensors, step_gradients

if TYPE_CHECKING:
    from transformers import BatchFeature, CLIPProcessor

pytestmark = pytest.mark.torch
SMALL = replace(CLIP, corpus=partial(pictures.captioned, count=120))


def a_step(root: Path, batch: int, dropout: float = 0.0) -> ARun:
    """A run of one step over `batch` pairs."""
    run = SMALL.run(root, trainBatchSize=batch, maxSteps=1)
    texts = [look.caption for look in pictures.LOOKS]
    return run.with_("model", uri=zoo.save("clip", root / "clip", texts, dropout).as_uri())


def inputs_of(processor: CLIPProcessor, rows: list[Row]) -> BatchFeature:
    opened = [open_image(row.values["image"], row.place) for row in rows]
    return processor(text=[row.values["text"] for row in rows], images=opened, padding=True, return_tensors="pt")


def reference(run: ARun, micro_batch: int) -> Tensors:
    """Gradients of the step by their parameters' names; random numbers are drawn for parts of `micro_batch` rows."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import CLIPModel, CLIPProcessor

    folder, training = run.config["model"]["uri"].removeprefix("file://"), run.config["training"]
    model, processor = CLIPModel.from_pretrained(folder).train(), CLIPProcessor.from_pretrained(folder)
    rows = load_data(RunConfig.model_validate(run.config)).sides[Side.TRAIN]
    lengths = [len(processor.tokenizer(row.values["text"]).input_ids) for row in rows]
    step = Sampler(len(rows), training["trainBatchSize"], training["seed"]).indices(0)
    parts = []
    for number, part in enumerate(micro_batches(step, lengths, micro_batch)):
        torch.manual_seed(draw_seed(training["seed"], 0, number))
        parts.append(model(**inputs_of(processor, [rows[index] for index in part])))
    images, texts = torch.cat([part.image_embeds for part in parts]), torch.cat([part.text_embeds for part in parts])
    similar, own = images @ texts.T * model.logit_scale.exp(), torch.arange(len(step))
    ((cross_entropy(similar, own) + cross_entropy(similar.T, own)) / 2).backward()
    return {name: item.grad for name, item in model.named_parameters() if item.grad is not None}


@pytest.mark.parametrize(
    ("batch", "micro_batch", "processes", "dropout"),
    [
        pytest.param(32, 32, 1, 0.0, id="one piece"),
        pytest.param(32, 8, 1, 0.0, id="four micro-batches"),
        pytest.param(32, 8, 2, 0.0, id="two processes"),
        pytest.param(20, 8, 2, 0.0, id="uneven micro-batches"),
        pytest.param(2, 1, 3, 0.0, id="a process without rows"),
        pytest.param(32, 8, 1, 0.3, id="four micro-batches with dropout"),
        pytest.param(32, 8, 2, 0.3, id="two processes with dropout"),
    ],
)
def test_gradient(
    batch: int, micro_batch: int, processes: int, dropout: float, trainer: WarmTrainer, tmp_path: Path
) -> None:
    import torch

    run = a_step(tmp_path, batch, dropout)
    expected = reference(run, micro_batch)
    found = step_gradients(trainer, run, micro_batch, processes)
    assert "logit_scale" in expected
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_dropout_shows(tmp_path: Path) -> None:
    """The references with and without dropout differ, so the cases above do compare something random."""
    still, random = (reference(a_step(tmp_path / str(rate), 32, rate), 8) for rate in (0.0, 0.3))
    assert float((still["logit_scale"] - random["logit_scale"]).abs()) > 1e-4
