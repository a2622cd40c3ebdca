"""What the trainer's tests share: small models made once, rows, and the warm process that runs are forked from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.models import save_model, sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run


@pytest.fixture(scope="session")
def trainer() -> WarmTrainer:
    return WarmTrainer()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small pre-trained model by its kind: bert, roberta or distilbert."""
    made: dict[str, Path] = {}

    def model(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_model(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return model


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with 240 rows that a small model can learn."""
    return write_rows(tmp_path_factory.mktemp("data") / "rows.csv", sentences(240))


@pytest.fixture
def small_run(tmp_path: Path, rows: Path, models: Callable[[str], Path]) -> ARun:
    """A run of a small BERT over the rows: 88 steps in a few seconds. Its evaluation looks at one column apart."""
    return a_run(tmp_path, rows.as_uri(), models("bert").as_uri()).with_("evaluation", slices=["label"])
