"""The model card: metadata that the hub reads, and words about what the model does, how well, and where it errs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.card import DOES, Known, model_card
from finetune_trainer.card_metadata import license_of
from finetune_trainer.model_folder import ModelFolder
from support.pages import ANALYSIS, HOSTILE, a_record
from support.runs import a_run

METRICS = {"test_accuracy": 0.83, "test_f1_macro": 0.81, "test_baseline_accuracy": 0.47, "test_loss": 0.6}


def a_config(task: str = "text-classification", **changes: Any) -> RunConfig:
    """A run on the hub's model and data, whose own places are `changes`."""
    config = {**a_run(Path("/runs"), "hf://owner/mails", "hf://owner/encoder").config, "task": task}
    return RunConfig.model_validate(config | changes)


def known(**changes: Any) -> Known:
    record = a_record()
    record["choices"] |= {"processes": 1}
    return Known(
        **{"record": record, "metrics": METRICS, "seconds": 75.0, "usage": "load()", "analysis": ANALYSIS} | changes
    )


def test_the_hub_reads_the_metadata() -> None:
    data = ModelCard(model_card(a_config(), known(license="apache-2.0"))).data
    assert data.to_dict() == {
        "base_model": "owner/encoder",
        "base_model_relation": "finetune",
        "datasets": ["owner/mails"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "metrics": ["accuracy", "f1", "loss"],
        "model-index": data.to_dict()["model-index"],
        "pipeline_tag": "text-classification",
        "tags": ["finetune-operator", "text-classification", "full"],
    }
    results = data.eval_results or []
    assert data.model_name == "test"
    assert [(result.metric_name, result.metric_type, result.metric_value) for result in results] == [
        ("accuracy", "accuracy", 0.83),
        ("f1_macro", "f1", 0.81),
        ("loss", "loss", 0.6),
    ]
    assert {(result.task_type, result.dataset_type) for result in results} == {("text-classification", "owner/mails")}


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_a_card(task: Task) -> None:
    """With the hub's name of the task, and with words of its own for what the model is for."""
    text = model_card(a_config(task), known())
    tag = ModelCard(text).data.pipeline_tag
    assert (tag is None) == (task is Task.MULTIMODAL_CLASSIFICATION)
    assert DOES[task] in text


def test_a_model_of_this_machine_names_no_repository() -> None:
    """Neither a base model nor data that only this machine has: the hub would look for them."""
    config = a_config(model={"uri": "file:///models/own"}, dataset={"train": [{"uri": "file:///rows.csv"}]})
    data = ModelCard(model_card(config, known())).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets", "license", "language"} & set(data)


def test_an_adapter_is_called_one() -> None:
    text = model_card(a_config(method={"type": "lora"}), known(adapter=True))
    data = ModelCard(text).data.to_dict()
    assert (data["base_model_relation"], data["library_name"]) == ("adapter", "peft")
    assert "LoRA, rank 16, alpha 32, on all-linear" in text
    assert "the adapter beside it" in text


def test_it_tells_where_the_model_errs() -> None:
    limits = model_card(a_config(), known()).split("## Limits")[1].split("## Data")[0]
    assert "Labels that it finds worst: `delivery` (F1 0.85, 12 rows)" in limits
    assert "most often: `praise` as `delivery` (3 rows), `delivery` as `praise` (2 rows)" in limits
    assert "By length it does worst on `0 to 20`: accuracy 0.700 over 12 rows, and 0.900 on `20 to 40`." in limits
    assert "guess" not in limits


def test_it_tells_that_the_model_does_no_better_than_a_guess() -> None:
    text = model_card(a_config(), known(metrics={"test_mse": 2.0, "test_baseline_mse": 1.5}, analysis={}))
    assert "**No better than a guess**: mse 2.0000, and 1.5000 by the training rows alone." in text


def test_hostile_names_are_words() -> None:
    """No tag, no link, no end of the code or of the metadata comes of a label or a name."""
    nasty = f"{HOSTILE}\n---\n```\n[x](http://x) `b`"
    analysis = {
        "confusion": {"labels": [nasty, "b"], "counts": [[1, 2], [3, 4]]},
        "perClass": [{"label": nasty, "f1": 0.1, "support": 9} for _ in range(3)],
        "slices": [{"by": nasty, "slice": nasty, "rows": 9, "metric": "f1", "value": value} for value in (0.1, 0.2)],
    }
    record = a_record()
    record["data"]["labels"] = [nasty, "b"]
    text = model_card(a_config(), known(analysis=analysis, record=record))
    body = text.split("\n---\n", 1)[1]
    outside = "".join(body.replace("\\`", "").split("`")[::2])
    assert "<script>" not in outside.replace("\\<", "")
    assert "[x](" not in outside.replace("\\[", "")
    assert body.count("```") == 2
    assert ModelCard(text).data.to_dict()["tags"] == ["finetune-operator", "text-classification", "full"]


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("---\nlicense: mit\n---\n# A model", "mit"),
        ("# A model without metadata", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\n: : {\n---\n", None),
        (None, None),
    ],
)
def test_the_license_is_what_the_base_models_card_says(text: str | None, license: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert license_of(ModelFolder(tmp_path, "bert")) == license
    assert license_of(ModelFolder(tmp_path, "bert", encoders={"text": ModelFolder(tmp_path, "bert")})) is None
