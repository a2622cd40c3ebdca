"""The gradient of one optimizer step beside that of transformers.Trainer 5.23.0: the same model, weights and rows.

What both have to come to is the gradient of the model's own loss over all rows of the step at once, in plain torch.
The Trainer divides nothing for a model whose forward takes further keyword arguments, and multiplies by the number of
processes, as if each such model divided by the `num_items_in_batch` that it is given. Many do not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.corpora import pictures, speech
from support.hf_trainer import NO_CLIPPING, Cut, Step, Tensors, first_steps, weights_after
from support.matrix import Corpus
from support.methods import CASES
from support.runs import ARun, WarmTrainer
from support.step_gradients import step_gradients

if TYPE_CHECKING:
    import torch

pytestmark = [
    pytest.mark.torch,
]
BATCH = 16
ROWS = 40
CUTS = {"4 micro-batches": Cut(accumulation=4), "2 processes": Cut(processes=2)}
CTC = "automatic-speech-recognition-wav2vec2-layer-norm"
REDUCTION = "ctc_loss_reduction"


@dataclass(frozen=True)
class Peer:
    """A case of the matrix with rows that are soon made, and whether the Trainer is right about it.

    `alike` is how far its gradient may be from the multiple that its cut is: batch norms, and micro-batches with
    uneven numbers of labels, come on top. `settings` go into the configuration of the model.
    """

    case: str
    corpus: Corpus
    right: bool = False
    alike: float = 1e-3
    settings: Mapping[str, str] | None = None


def few(corpus: Corpus) -> Corpus:
    return lambda folder: corpus(folder)[:ROWS]


PEERS = {
    "BERT, text classification": Peer("text-classification bert", few(CASES["text-classification bert"].corpus)),
    "BERT, token classification": Peer(
        "token-classification bert", few(CASES["token-classification bert"].corpus), alike=0.2
    ),
    "T5, summarization": Peer("summarization t5", few(CASES["summarization t5"].corpus)),
    "ResNet, image classification": Peer(
        "image-classification-resnet", partial(pictures.digits, count=ROWS), alike=0.3
    ),
    "Wav2Vec2, CTC, mean": Peer(
        CTC, partial(speech.phrases, count=ROWS, spoken=speech.SPOKEN[:4], longest=2), settings={REDUCTION: "mean"}
    ),
    "ViT, image classification": Peer("image-classification-vit", partial(pictures.digits, count=ROWS), right=True),
    "GPT-2, text generation": Peer("text-generation gpt2", few(CASES["text-generation gpt2"].corpus), right=True),
}
WRONG = [name for name, peer in PEERS.items() if not peer.right]


@dataclass(frozen=True)
class Measured:
    """The runs, and the Trainer's first step for each cut."""

    runs: Mapping[str, ARun]
    theirs: Mapping[str, Mapping[str, Step]]


@pytest.fixture(scope="module")
def measured(trainer: WarmTrainer, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    root = tmp_path_factory.mktemp("peers")
    runs = {name: a_peer(peer, root / str(number)) for number, (name, peer) in enumerate(PEERS.items())}
    return Measured(runs, {name: first_steps(trainer, runs, cut, NO_CLIPPING) for name, cut in CUTS.items()})


def a_peer(peer: Peer, root: Path) -> ARun:
    run = replace(CASES[peer.case], corpus=peer.corpus).run(root, trainBatchSize=BATCH, maxSteps=1)
    path = root / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(peer.settings or {})))
    return run


def flat(tensors: Tensors, names: Mapping[str, object]) -> torch.Tensor:
    import torch

    return torch.cat([tensors[name].flatten().double() for name in names])


def error(found: Tensors, expected: Tensors) -> float:
    """The length of the difference, as a share of the length of what is expected."""
    difference = flat(found, expected) - flat(expected, expected)
    return float(difference.norm() / flat(expected, expected).norm())


def multiple(found: Tensors, expected: Tensors) -> float:
    """How many times what is expected lies in what was found."""
    one, other = flat(found, expected), flat(expected, expected)
    return float(one @ other / (other @ other))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", PEERS)
def test_theirs(name: str, cut: str, measured: Measured) -> None:
    """As many times too long as there are parts, and so is the loss in the log; or right, which is said as well."""
    peer, step = PEERS[name], measured.theirs[cut][name]
    whole, parts = step.whole, CUTS[cut].parts
    if peer.right:
        assert error(step.gradient, whole) < 1e-5
        return
    assert multiple(step.gradient, whole) == pytest.approx(parts, rel=peer.alike)
    assert error(step.gradient, whole) > 0.9
    assert step.norm == pytest.approx(parts * float(flat(whole, whole).norm()), rel=peer.alike)


@pytest.mark.parametrize("name", WRONG)
def test_ours(name: str, measured: Measured, trainer: WarmTrainer) -> None:
    """Right in four micro-batches by two processes, for every model that they are wrong about.

    The loss of CTC is ours: divided by all characters of the step, where theirs divides each row by its own. So that
    one is compared with itself in one piece. The other cases of the matrix: test_matrix.py.
    """
    run = measured.runs[name]
    expected = (
        step_gradients(trainer, run, BATCH) if PEERS[name].case == CTC else measured.theirs["2 processes"][name].whole
    )
    assert error(step_gradients(trainer, run, BATCH // 4, processes=2), expected) < 1e-5


def test_speech_recognition_is_right_where_losses_are_summed_up(
    measured: Measured, trainer: WarmTrainer, tmp_path: Path
) -> None:
    """Wav2Vec2's default, which the example script for CTC replaces by the mean: then the step has no denominator at
    all, and its gradient is the longer the more rows there are.
    """
    run = measured.runs["Wav2Vec2, CTC, mean"]
    model = shutil.copytree(run.root / "model", tmp_path / "model")
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {REDUCTION: "sum"}))
    summed = {"sum": ARun(tmp_path, run.with_("model", uri=model.as_uri()).config)}
    step = first_steps(trainer, summed, CUTS["4 micro-batches"], NO_CLIPPING)["sum"]
    assert error(step.gradient, step.whole) < 1e-5


@pytest.fixture(scope="module")
def moved(measured: Measured, trainer: WarmTrainer) -> Callable[[Cut, float], Tensors]:
    """The weights of the text classifier after some steps of their AdamW."""
    run = measured.runs["BERT, text classification"]
    return lambda cut, most: weights_after(trainer, run, cut, most, steps=20)


def test_adamw_hides_it_until_gradients_are_clipped(moved: Callable[[Cut, float], Tensors]) -> None:
    """AdamW divides by the gradient's own size; but clipped to 1, the default, a gradient four times too long is
    clipped in steps where the right one would not be.
    """
    pieces = CUTS["4 micro-batches"]
    free, clipped = (error(moved(pieces, most), moved(Cut(), most)) for most in (NO_CLIPPING, 1.0))
    assert free < 1e-3
    assert clipped > 10 * free
