"""docs/tasks.md has every task: rows that the task reads as they stand there, and the lines of the model card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from finetune_api.job import Task
from finetune_trainer.data.columns import Where, media
from finetune_trainer.tasks import TASKS

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def blocks(task: Task, language: str) -> list[str]:
    """The blocks in a language of a task's section."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (own,) = (text for text in section if text.startswith(f"{task}\n"))
    return re.findall(rf"```{language}\n(.*?)\n```", own, flags=re.DOTALL)


@pytest.mark.parametrize("task", TASKS)
def test_the_rows_of_a_page_are_read(task: Task) -> None:
    """Pictures and sounds apart, whose files are not there."""
    roles, examples = TASKS[task].roles, [json.loads(line) for line in "\n".join(blocks(task, "json")).splitlines()]
    assert len(examples) >= 2
    for example in examples:
        resolved = roles.resolve({}, list(example), PAGE.name)
        assert set(resolved) == set(example)
        for role in resolved:
            if roles.kinds[role] is not media:
                roles.kinds[role](example[role], Where(PAGE.name, role, role))


@pytest.mark.parametrize("task", TASKS)
def test_a_page_and_the_cards_load_the_model_alike(task: Task) -> None:
    assert TASKS[task].usage in blocks(task, "python")
