"""docs/augmentation.md and the tasks say the same of what can be changed; all else is refused by its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.augment import AudioAugment, ImageAugment, TextAugment
from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.augments import CLIPS, MIXES, PICTURES, WORDS, check_augment
from support.runs import a_run

PAGE = Path(__file__).parents[2] / "docs" / "augmentation.md"
SECTIONS: dict[str, Any] = {"text": TextAugment, "image": ImageAugment, "audio": AudioAugment}
WHOLE = {"text": WORDS, "image": PICTURES + MIXES, "audio": CLIPS}
LIKELY = ("wordDropout", "wordSwap", "characterNoise", "horizontalFlip", "verticalFlip", "mixup", "cutmix")
ON: dict[str, Any] = {
    **dict.fromkeys(LIKELY, 0.5),
    **{field: {} for field in ("randAugment", "crop", *CLIPS)},
    "synonyms": [{"word": "a", "synonyms": ["b"]}],
}


def table(head: str) -> list[list[str]]:
    """The cells of the page's table that begins with `head`."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def said(task: Task) -> dict[str, tuple[str, ...]]:
    """What the page says that a task can use."""
    cells = {row[0]: dict(zip(WHOLE, row[1:], strict=True)) for row in table("task")}
    kinds = {"all": WHOLE, "all but mixup, cutmix": {**WHOLE, "image": PICTURES}}
    return {modality: kinds[cell][modality] for modality, cell in cells.get(task, {}).items() if cell}


@pytest.mark.parametrize("task", list(Task), ids=str)
def test_the_page_says_what_a_task_can_use(task: Task) -> None:
    assert {name: tuple(fields) for name, fields in TASKS[task].augments.items()} == said(task)


@pytest.mark.parametrize("modality", WHOLE)
def test_every_field_is_on_the_page(modality: str) -> None:
    assert {row[0] for row in table(f"field of `augment.{modality}`")} == {
        field.alias for field in SECTIONS[modality].model_fields.values()
    }


def refusal(task: Task, augment: Any, root: Path, encoders: Any = None) -> ConfigError | None:
    run = a_run(root, "./rows.csv", "./model").with_("dataset", augment=augment)
    model = {"encoders": encoders} if encoders else run.config["model"]
    try:
        check_augment(TASKS[task], RunConfig.model_validate({**run.config, "task": task, "model": model}))
    except ConfigError as error:
        return error
    return None


@pytest.mark.parametrize("field", ON)
@pytest.mark.parametrize("task", list(Task), ids=str)
def test_what_a_task_cannot_use_is_refused_by_its_field(task: Task, field: str, tmp_path: Path) -> None:
    modality = next(name for name, fields in WHOLE.items() if field in fields)
    error = refusal(task, {modality: {field: ON[field]}}, tmp_path)
    if field in TASKS[task].augments.get(modality, ()):
        assert error is None
        return
    assert error is not None
    there = modality in TASKS[task].augments
    path = f"spec.dataset.augment.{modality}.{field}" if there else f"spec.dataset.augment.{modality}"
    assert error.message.startswith(f"{path}: ")
    assert error.hint


def test_what_has_no_encoder_is_refused(tmp_path: Path) -> None:
    encoders = {"text": {"uri": "./a"}, "image": {"uri": "./b"}}
    error = refusal(Task.MULTIMODAL_CLASSIFICATION, {"audio": {"noise": {}}}, tmp_path, encoders)
    assert error is not None
    assert (
        error.message == "spec.dataset.augment.audio: multimodal-classification has no audio here that could be changed"
    )
    assert error.hint == "it takes spec.dataset.augment.text, spec.dataset.augment.image"


def test_fields_that_change_nothing_are_taken_everywhere(tmp_path: Path) -> None:
    assert refusal(Task.TEXT_GENERATION, {"image": {"horizontalFlip": 0}, "text": {}}, tmp_path) is None
