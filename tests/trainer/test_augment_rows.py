"""Training rows as a step gets them: changed for every modality by the seed of their draw, and nothing else is.

Evaluated rows have a draw, too; a task makes of them what it makes without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest

from finetune_trainer.data.columns import Where, media
from finetune_trainer.data.rows import Row, Rows
from support import zoo
from support.corpora import pictures
from support.tasks import open_task

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import Batch, TaskKind
    from finetune_trainer.training.training_rows import TrainingRows

pytestmark = pytest.mark.torch
RATE = 16_000
SECONDS = (0.5, 0.31, 0.5, 0.8)
TEXTS = ("one", "two four", "four", "one two one")
SENTENCES = ("the parcel came late today", "thank you for the quick reply", "where is my invoice now", "a good day")
LABELS = ("a", "b", "a", "b")
CLIPS = {
    "noise": {"probability": 1.0},
    "pitch": {"probability": 1.0},
    "speed": {"minRate": 0.8, "maxRate": 1.25, "probability": 1.0},
    "specAugment": {},
}
WORDS = {"wordDropout": 0.3, "wordSwap": 0.3, "characterNoise": 0.1}
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folder of a model of the zoo, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = zoo.save(kind, tmp_path_factory.mktemp("model") / kind, [*TEXTS, *SENTENCES])
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("images")
    names = [row["image"] for row in pictures.digits(folder, 4)]
    return [media(name, Where(name, "image", "image", folder)) for name in names]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    import soundfile

    folder = tmp_path_factory.mktemp("sounds")
    for number, seconds in enumerate(SECONDS):
        noise = numpy.random.default_rng(number).normal(0, 0.1, int(seconds * RATE))
        soundfile.write(folder / f"{number}.wav", noise, RATE)
    return [media(f"{number}.wav", Where("row", "audio", "audio", folder)) for number in range(len(SECONDS))]


def rows_of(**roles: Sequence[Any]) -> Rows:
    values = [dict(zip(roles, row, strict=True)) for row in zip(*roles.values(), strict=True)]
    return Rows.of([Row(row, "rows.jsonl", number) for number, row in enumerate(values, start=1)])


def trained(task: TaskKind, rows: Rows) -> TrainingRows:
    from finetune_trainer.training.training_rows import TrainingRows

    return TrainingRows(rows, task.encode(rows)[0], task)


def drawn(task: TaskKind, data: TrainingRows, seed: int) -> Batch:
    """All rows as an epoch sees them."""
    return task.collate([data.drawn(index, seed + index) for index in range(len(data.rows))])


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name].shape == other[name].shape and bool((one[name] == other[name]).all()) for name in one)


TASKS = [
    pytest.param("text-classification", "bert", {"text": WORDS}, ("text", "label"), id="text-classification"),
    pytest.param("text-regression", "bert", {"text": WORDS}, ("text", "number"), id="text-regression"),
    pytest.param("token-classification", "bert", {"text": WORDS}, ("tokens", "tags"), id="token-classification"),
    pytest.param("fill-mask", "bert", {"text": WORDS}, ("text",), id="fill-mask"),
    pytest.param("translation", "t5", {"text": WORDS}, ("source", "target"), id="translation"),
    pytest.param(
        "image-classification", "vit", {"image": {"randAugment": {}, "crop": {}}}, ("image", "label"), id="images"
    ),
    pytest.param("image-text-contrastive", "clip", {"image": {"crop": {}}}, ("image", "text"), id="contrastive images"),
    pytest.param("image-text-contrastive", "clip", {"text": WORDS}, ("image", "text"), id="contrastive texts"),
    pytest.param(
        "image-text-to-text",
        "llava",
        {"image": {"crop": {}}},
        ("image", "prompt", "completion"),
        id="image-text-to-text",
    ),
    pytest.param("audio-classification", "wav2vec2-layer-norm", {"audio": CLIPS}, ("audio", "label"), id="clips"),
    pytest.param("automatic-speech-recognition", "whisper", {"audio": CLIPS}, ("audio", "said"), id="whisper"),
    pytest.param("automatic-speech-recognition", "wav2vec2-layer-norm", {"audio": CLIPS}, ("audio", "said"), id="ctc"),
]


@pytest.fixture(scope="module")
def columns(images: list[Any], sounds: list[Any]) -> dict[str, Sequence[Any]]:
    tokens = [tuple(text.split()) for text in SENTENCES]
    return {
        "text": SENTENCES, "source": SENTENCES, "target": TEXTS, "label": LABELS, "number": (1.0, 2.0, 3.0, 4.0),
        "tokens": tokens, "tags": [("O",) * len(words) for words in tokens], "image": images, "audio": sounds,
        "said": TEXTS, "prompt": SENTENCES, "completion": TEXTS,
    }  # fmt: skip


ROLES = {"number": "label", "said": "text"}


@pytest.mark.parametrize(("name", "kind", "augment", "roles"), TASKS)
def test_training_rows_change_and_evaluated_ones_do_not(
    name: str, kind: str, augment: Any, roles: Sequence[str], folders: Made, columns: Mapping[str, Any]
) -> None:
    """Other ones with every seed, the same with the same; without the setting as they are evaluated."""
    labels = {"token-classification": ["B-X", "O"]}.get(name, ["a", "b"])
    task = open_task(name, folders(kind), labels, {"augment": augment})
    rows = rows_of(**{ROLES.get(role, role): columns[role] for role in roles})
    data, plain = trained(task, rows), open_task(name, folders(kind), labels)
    evaluated = task.collate([{**example, "draw": 3 + index} for index, example in enumerate(data.examples)])
    once, again, other = drawn(task, data, 3), drawn(task, data, 3), drawn(task, data, 90)
    assert same(once.inputs, again.inputs)
    assert same(once.targets, again.targets)
    assert not same(once.inputs, other.inputs)
    assert not same(once.inputs, evaluated.inputs)
    assert same(evaluated.inputs, drawn(plain, trained(plain, rows), 3).inputs)


def test_each_modality_of_several_changes(folders: Made, columns: Mapping[str, Any], tmp_path: Path) -> None:
    from finetune_trainer.data.augment.words import Rewording
    from finetune_trainer.model_folder import ModelFolder, Needs, read_folder
    from finetune_trainer.tasks import TASKS as KINDS
    from support.tasks import a_config

    kinds = {"text": "bert", "image": "vit", "audio": "wav2vec2"}
    augment = {"text": WORDS, "image": {"crop": {}}, "audio": CLIPS}
    config = a_config("multimodal-classification", folders("bert"), {"augment": augment})
    task_kind = KINDS[config.task]
    encoders = {
        name: read_folder(folders(kind), name, Needs(task_kind.auto_classes, (task_kind.encoders[name],)))
        for name, kind in kinds.items()
    }
    task = task_kind.load(ModelFolder(tmp_path, "joined", encoders=encoders), ["a", "b"], config)
    rows = rows_of(text=SENTENCES, image=columns["image"], audio=columns["audio"], label=LABELS)
    data = trained(task, rows)
    once, plain = data.drawn(0, 5), task.encode(rows)[0][0]
    assert isinstance(task.rewording, Rewording)
    assert once["text"]["input_ids"] != plain["text"]["input_ids"]
    before, after = task.collate([plain]).inputs, task.collate([once]).inputs
    assert {
        name for name in ("image_pixel_values", "audio_input_values") if same({"": before[name]}, {"": after[name]})
    } == set()
    assert task.size(once) == once["audio"]["samples"] == after["audio_input_values"].shape[1] != task.size(plain)


def test_a_text_that_grew_too_long_is_taken_as_it_is(folders: Made) -> None:
    """Where texts are not to be cut: augmentation ends no run."""
    words = {"synonyms": [{"word": "day", "synonyms": ["day after day after day"]}], "synonymProbability": 1.0}
    task = open_task(
        "text-classification", folders("bert"), ["a", "b"], {"augment": {"text": words}}, truncation=False, maxLength=8
    )
    data = trained(task, rows_of(text=("a good day", "good"), label=("a", "b")))
    assert data.drawn(0, 1)["input_ids"] == data.examples[0]["input_ids"]


def test_a_clip_keeps_room_for_its_text(folders: Made, sounds: list[Any]) -> None:
    """However fast it is; and Whisper's clips never get longer than it hears."""
    fast = {"audio": {"speed": {"minRate": 2.0, "maxRate": 2.0, "probability": 1.0}}}
    task = open_task("automatic-speech-recognition", folders("wav2vec2-layer-norm"), (), {"augment": fast})
    example: dict[str, Any] = {"audio": sounds[0], "place": "row 1", "samples": 8000, "tokens": [5], "needed": 20}
    assert task.augmented(example, 1)["samples"] == 8000
    assert task.augmented({**example, "needed": 3}, 1)["samples"] == 4000
    slow = {"audio": {"speed": {"minRate": 0.5, "maxRate": 0.5, "probability": 1.0}}}
    whisper = open_task("automatic-speech-recognition", folders("whisper"), (), {"augment": slow})
    limit = whisper.sounds.limit  # type: ignore[attr-defined]
    assert whisper.augmented({**example, "samples": limit // 2 + 1}, 1)["samples"] == limit // 2 + 1
    assert whisper.augmented({**example, "samples": limit // 2}, 1)["samples"] == limit // 2 * 2


def test_masks_of_our_own_take_the_place_of_the_models(folders: Made, columns: Mapping[str, Any]) -> None:
    """And with faster clips the model's own are no longer than the shortest may become."""
    from transformers import Wav2Vec2Config

    for augment, applied, longest in (
        ({}, True, 10), ({"specAugment": {}}, False, 10), ({"speed": {"maxRate": 2.0}}, True, 7)
    ):  # fmt: skip
        task: Any = open_task("audio-classification", folders("wav2vec2"), ["a", "b"], {"augment": {"audio": augment}})
        examples, _ = task.encode(rows_of(audio=columns["audio"], label=LABELS))
        config = Wav2Vec2Config(apply_spec_augment=True, mask_time_length=10)
        task.sounds.prepare(config, examples)
        assert (config.apply_spec_augment, config.mask_time_length) == (applied, longest)


def mixed(folders: Made, images: list[Any], labels: Sequence[Any] = LABELS, **settings: Any) -> tuple[Any, Any, Rows]:
    task = open_task("image-classification", folders("vit"), ["a", "b"], {"augment": {"image": settings}})
    rows = rows_of(image=images, label=labels)
    return task, trained(task, rows), rows


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}], ids=str)
def test_mixed_images_have_the_labels_of_both(settings: Any, folders: Made, images: list[Any]) -> None:
    """By the share of each that is to be seen."""
    import torch

    task, data, rows = mixed(folders, images, **settings)
    plain = task.collate(task.encode(rows)[0]).inputs["pixel_values"]
    shares = []
    for seed in range(60):
        example = data.drawn(0, seed)
        batch, partner = task.collate([example]), example["mix"].partner
        own = float(example["mix"].share(*plain.shape[-2:]))
        shares.append(own)
        found, expected = batch.inputs["pixel_values"][0], plain[0] * own + plain[partner] * (1 - own)
        if "cutmix" in settings and partner != 0:
            assert bool(((found == plain[0]) | (found == plain[partner])).all())
            different = plain[0] != plain[partner]
            kept = float(((found == plain[0]) & different).sum() / different.sum())
            assert kept == pytest.approx(own, abs=0.35)
        elif "mixup" in settings:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        other = 1 - own if LABELS[partner] == "b" else 0.0
        torch.testing.assert_close(batch.targets["labels"], torch.tensor([[1 - other, other]]))
        assert batch.count == 1
    assert min(shares) < 0.2 < 0.8 < max(shares)


def test_the_other_image_may_be_any_training_row(folders: Made, images: list[Any]) -> None:
    """Not only one of the same micro-batch; and it is changed by a seed of its own."""
    _, data, _ = mixed(folders, images, mixup=0.4, horizontalFlip=0.5)
    found = [data.drawn(0, seed) for seed in range(60)]
    assert {example["mix"].partner for example in found} == {0, 1, 2, 3}
    assert all(example["partner"]["augment"] != example["augment"] for example in found)


def test_both_ways_of_mixing_get_half_each(folders: Made, images: list[Any]) -> None:
    _, data, _ = mixed(folders, images, mixup=1.0, cutmix=1.0)
    boxes = [data.drawn(0, seed)["mix"].box for seed in range(100)]
    assert 30 < sum(box is None for box in boxes) < 70


def test_several_labels_are_mixed_as_well(folders: Made, images: list[Any]) -> None:
    import torch

    dataset = {"augment": {"image": {"mixup": 1.0}}, "problemType": "MultiLabel"}
    task = open_task("image-classification", folders("vit"), ["a", "b"], dataset)
    data = trained(task, rows_of(image=images, label=[("a", "b"), ("a",), ("a",), ("a",)]))
    example = next(one for one in (data.drawn(0, seed) for seed in range(50)) if one["mix"].partner)
    torch.testing.assert_close(task.collate([example]).targets["labels"], torch.tensor([[1.0, example["mix"].own]]))


@pytest.mark.parametrize(
    "settings",
    [{"horizontalFlip": 1.0}, {"verticalFlip": 1.0}, {"crop": {"minScale": 0.2, "maxScale": 0.5}}, {"randAugment": {}}],
    ids=lambda settings: next(iter(settings)),
)
def test_pictures_change_as_was_asked(settings: Any, images: list[Any]) -> None:
    """To images of the same size, and torch's own generator is where it was."""
    import torch
    from PIL import ImageOps

    from finetune_api.augment import ImageAugment
    from finetune_trainer.data.augment.pictures import changed
    from finetune_trainer.data.media import open_image

    image, wanted = open_image(images[0], "row"), ImageAugment.model_validate(settings)
    state = torch.get_rng_state()
    found = [changed(image, wanted, seed) for seed in range(30)]
    assert bool((torch.get_rng_state() == state).all())
    assert {one.size for one in found} == {image.size}
    variants = {one.tobytes() for one in found}
    if "crop" in settings or "randAugment" in settings:
        assert len(variants) > 15
    else:
        assert variants == {(ImageOps.mirror if "horizontalFlip" in settings else ImageOps.flip)(image).tobytes()}


@pytest.mark.parametrize("problem", ["SingleLabel", "MultiLabel"])
def test_the_weighted_loss_is_that_of_torch(problem: str, folders: Made) -> None:
    """Its mean, for one label; for several the sum of its values, divided by the sum of their weights."""
    import torch
    from torch.nn import functional

    task = open_task("text-classification", folders("bert"), ["a", "b"], {"problemType": problem}, labelSmoothing=0.1)
    task.class_weights = {"a": 0.5, "b": 3.0}
    several = problem == "MultiLabel"
    rows = rows_of(text=SENTENCES, label=[("a", "b"), ("b",), ("a",), ()] if several else LABELS)
    batch, weights = drawn(task, trained(task, rows), 1), torch.tensor([0.5, 3.0])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    outputs: Any = type("Outputs", (), {"logits": logits})
    loss = task.loss(outputs, batch) / batch.count
    if several:
        hot = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        values = functional.binary_cross_entropy_with_logits(logits, hot, reduction="none") * (1 + hot * (weights - 1))
        expected = values.sum() / (2 * 3.0 + 2 * 0.5 + 4)
    else:
        expected = functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1]), weights, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    evaluated = task.collate(task.encode(rows)[0])
    assert ("weights" in evaluated.targets, evaluated.count) == (False, 8 if several else 4)


def test_tags_are_weighed_in_the_loss(folders: Made) -> None:
    import torch
    from torch.nn import functional

    task = open_task("token-classification", folders("bert"), ["B-X", "O"])
    task.class_weights = {"B-X": 4.0, "O": 1.0}
    rows = rows_of(tokens=[("good", "day"), ("late",)], tags=[("O", "B-X"), ("O",)])
    batch = drawn(task, trained(task, rows), 1)
    logits = torch.randn(*batch.targets["labels"].shape, 2, generator=torch.Generator().manual_seed(0))
    outputs: Any = type("Outputs", (), {"logits": logits})
    labels = batch.targets["labels"].flatten()
    expected = functional.cross_entropy(logits.flatten(0, 1), labels, torch.tensor([4.0, 1.0]))
    assert batch.count == 6.0
    torch.testing.assert_close(task.loss(outputs, batch) / batch.count, expected)
