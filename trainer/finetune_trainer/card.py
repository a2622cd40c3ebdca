"""README.md of a run: what the model is, how well it does, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.method import MethodType
from finetune_api.run import RunConfig

NAMED = 30
"""Labels that the card lists."""


def model_card(
    config: RunConfig, record: Mapping[str, Any], metrics: Mapping[str, float], seconds: float, usage: str
) -> str:
    """The card as Markdown; `usage` is the Python that loads the model."""
    data, model, choices = record["data"], record["model"], record["choices"]
    training = config.training
    rows = ", ".join(f"{count} {side}" for side, count in data["rows"].items())
    return "\n".join(
        [
            f"# {config.job.name}",
            "",
            f"A {model['modelType']} model for {config.task}, fine-tuned from `{model['uri']}`"
            + (f" at {model['revision']}" if model["revision"] else "")
            + ".",
            "",
            "## Results",
            "",
            *_results(metrics),
            "",
            "Measured once on rows that were held out of training. `evaluation.json` has the details, `errors.jsonl`"
            " the rows that went wrong, `predictions.jsonl` what was said of every row.",
            "",
            "## Training",
            "",
            f"- Method: {_method(config)}",
            f"- Rows: {rows}" + _labels(data["labels"]),
            f"- {choices['total_steps']} steps of {training.train_batch_size} rows, learning rate"
            f" {training.learning_rate:g} ({training.lr_scheduler_type}), weight decay {training.weight_decay:g}",
            f"- Seed {training.seed}, {choices['precision']}, {choices['processes']} process(es),"
            f" {seconds:.0f} seconds",
            "",
            "`run.json` has the whole configuration, versions and hashes: enough to repeat it.",
            "",
            "## Use",
            "",
            "`finetune predict RUN FILE`, where RUN is this file's folder, or in Python beside the folder `model`:",
            "",
            "```python",
            usage,
            "```",
            *_adapter_note(config),
            "",
        ]
    )


def _results(metrics: Mapping[str, float]) -> list[str]:
    tested = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    rows = [f"| {_title(name)} | {value:.4f} |" for name, value in tested.items()]
    return ["| metric | test |", "|---|---|", *rows]


def _title(name: str) -> str:
    guessed = name.removeprefix("baseline_")
    return name if guessed == name else f"{guessed} of a guess from the training rows alone"


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return f"; labels: {', '.join(labels[:NAMED])}" + (f", and {len(labels) - NAMED} more" if labels[NAMED:] else "")


def _method(config: RunConfig) -> str:
    if config.method.type is MethodType.LORA:
        lora = config.method.lora
        return f"LoRA, rank {lora.r}, alpha {lora.alpha}, on {', '.join(lora.target_modules)}"
    return "full fine-tuning"


def _adapter_note(config: RunConfig) -> list[str]:
    if config.method.type is not MethodType.LORA or config.output.merge_adapter:
        return []
    return [
        "",
        "`model/` holds the base model and the LoRA adapter beside it, which loading puts on (peft); or one merged"
        " model, if transformers cannot do that with this architecture.",
    ]
