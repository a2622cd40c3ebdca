"""README.md of a run: what the model is and is for, how well it does, where it errs, and how to load it.

It begins with the metadata that the Hugging Face hub reads, so that a run's folder can be put there as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.job import Task
from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_trainer.card_metadata import metadata

NAMED = 30
"""Labels that the card lists."""
WORST = 3
"""Slices, labels and mistakes that the card names."""
FEW = 5
"""Rows below which a slice says nothing."""
LORAS = (MethodType.LORA, MethodType.DORA, MethodType.QLORA)
LOWER = ("loss", "mse", "mae", "rmse", "wer", "cer", "perplexity")
Analysis = Mapping[str, Any]

DOES: Mapping[Task, str] = {
    Task.TEXT_CLASSIFICATION: "says which of its labels a text, or a pair of texts, has",
    Task.TEXT_REGRESSION: "gives a text, or a pair of texts, a number",
    Task.TOKEN_CLASSIFICATION: "gives each word of a text a tag",
    Task.QUESTION_ANSWERING: "finds the words of a text that answer a question",
    Task.SUMMARIZATION: "writes a short text for a long one",
    Task.TRANSLATION: "writes a text in another language",
    Task.TEXT_GENERATION: "goes on with a text, or answers a prompt or a conversation",
    Task.PREFERENCE_OPTIMIZATION: "answers a prompt as people preferred it",
    Task.FILL_MASK: "says which words are hidden in a text",
    Task.IMAGE_CLASSIFICATION: "says which of its labels an image has",
    Task.AUDIO_CLASSIFICATION: "says which of its labels a sound has",
    Task.AUTOMATIC_SPEECH_RECOGNITION: "writes down what is said",
    Task.IMAGE_TEXT_TO_TEXT: "answers a prompt about an image",
    Task.IMAGE_TEXT_CONTRASTIVE: "says how well an image and a text go together",
    Task.MULTIMODAL_CLASSIFICATION: "says which of its labels something has of which there are text, image and sound",
}


@dataclass(frozen=True)
class Known:
    """What a card says beside its configuration: run.json, test metrics, their analysis, the time that it took, the
    Python lines that load the model, the license of the base model, and whether an adapter lies beside that.
    """

    record: Mapping[str, Any]
    metrics: Mapping[str, float]
    seconds: float
    usage: str
    analysis: Analysis = field(default_factory=dict)
    license: str | None = None
    adapter: bool = False


def model_card(config: RunConfig, known: Known) -> str:
    """The card as Markdown, its metadata first."""
    head = metadata(config, known.record["data"]["rows"], known.metrics, known.license, known.adapter)
    sections = [*_about(config, known), *_limits(known), *_training(config, known), *_use(known)]
    return "\n".join(["---", head.strip(), "---", "", *sections, ""])


def _about(config: RunConfig, known: Known) -> list[str]:
    model = known.record["model"]
    revision = f" at {model['revision']}" if model["revision"] else ""
    return [
        f"# {plain(config.job.name)}",
        "",
        f"A {model['modelType']} model for {config.task}, fine-tuned from {code(model['uri'])}{revision}.",
        "",
        "## Intended use",
        "",
        f"It {DOES[config.task]}. It is for inputs like those that it was trained on: of others nothing is known.",
        "",
        "## Results",
        "",
        *_results(known.metrics),
        "",
        "Measured once on rows that were held out of training. `report.html` shows the details; `evaluation.json` has"
        " the numbers, `errors.jsonl` the rows that went wrong, `predictions.jsonl` what was said of every row.",
        "",
    ]


def _results(metrics: Mapping[str, float]) -> list[str]:
    tested = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    rows = [f"| {_title(name)} | {value:.4f} |" for name, value in tested.items()]
    return ["| metric | test |", "|---|---|", *rows]


def _title(name: str) -> str:
    guessed = name.removeprefix("baseline_")
    return name if guessed == name else f"{guessed} of a guess from the training rows alone"


# --- where it errs ----------------------------------------------------------------------------------------------------


def _limits(known: Known) -> list[str]:
    found = [*_against_baseline(known.metrics), *_weak_labels(known.analysis), *_mistakes(known.analysis)]
    found += [*_weak_slices(known.analysis), *_calibration(known.analysis)]
    lines = [f"- {line}" for line in found] or ["No part of the test rows stood out. That is no promise about others."]
    return ["## Limits", "", *lines, ""]


def _against_baseline(metrics: Mapping[str, float]) -> Iterator[str]:
    for name, guess in metrics.items():
        metric = name.removeprefix("test_baseline_")
        value = metrics.get(f"test_{metric}")
        if metric != name and value is not None and not _better(metric, value, guess):
            yield f"**No better than a guess**: {metric} {value:.4f}, and {guess:.4f} by the training rows alone."


def _better(metric: str, value: float, than: float) -> bool:
    return value < than if metric.split("_")[0] in LOWER else value > than


def _weak_labels(analysis: Analysis) -> Iterator[str]:
    """The labels that are found worst, if not all are found alike."""
    rows = [row for row in analysis.get("perClass", []) if row.get("support")]
    weak = sorted(rows, key=lambda row: float(row["f1"]))[:WORST]
    if len(rows) > 2 and weak[0]["f1"] < 0.95:
        said = ", ".join(f"{code(row['label'])} (F1 {row['f1']:.2f}, {row['support']} rows)" for row in weak)
        yield f"Labels that it finds worst: {said}."


def _mistakes(analysis: Analysis) -> Iterator[str]:
    confusion = analysis.get("confusion") or {}
    labels, counts = confusion.get("labels", []), confusion.get("counts", [])
    mistakes = [
        (count, labels[true], labels[said])
        for true, row in enumerate(counts)
        for said, count in enumerate(row)
        if true != said and count > 1
    ]
    worst = sorted(mistakes, key=lambda mistake: -mistake[0])[:WORST]
    if worst:
        said = ", ".join(f"{code(true)} as {code(wrong)} ({count} rows)" for count, true, wrong in worst)
        yield f"What it takes for something else most often: {said}."


def _weak_slices(analysis: Analysis) -> Iterator[str]:
    """Of each way to cut the rows the part that does worst, if there are enough rows in it."""
    rows = [row for row in analysis.get("slices", []) if row["rows"] >= FEW and row["by"] != "label"]
    for by in list(dict.fromkeys(row["by"] for row in rows))[:WORST]:
        own = [row for row in rows if row["by"] == by]
        own.sort(key=lambda row: row["value"], reverse=own[0]["metric"].split("_")[0] in LOWER)
        if len(own) > 1 and own[0]["value"] != own[-1]["value"]:
            low, high = own[0], own[-1]
            yield (
                f"By {plain(by)} it does worst on {code(low['slice'])}: {low['metric']} {low['value']:.3f} over"
                f" {low['rows']} rows, and {high['value']:.3f} on {code(high['slice'])}."
            )


def _calibration(analysis: Analysis) -> Iterator[str]:
    error = (analysis.get("calibration") or {}).get("ece")
    if error is not None and error > 0.1:
        yield f"Its scores are not probabilities: they are off by {error:.2f} on average (expected calibration error)."


# --- training and use -------------------------------------------------------------------------------------------------


def _training(config: RunConfig, known: Known) -> list[str]:
    data, choices, training = known.record["data"], known.record["choices"], config.training
    rows = ", ".join(f"{count} {side}" for side, count in data["rows"].items())
    sources = list(dict.fromkeys(source.uri for _, source in config.dataset.sources()))
    return [
        "## Data",
        "",
        f"- Sources: {', '.join(map(code, sources[:NAMED]))}",
        f"- Rows: {rows}" + _labels(data["labels"]),
        "",
        "## Training",
        "",
        f"- Method: {_method(config)}",
        f"- {choices['total_steps']} steps of {training.train_batch_size} rows, learning rate"
        f" {training.learning_rate:g} ({training.lr_scheduler_type}), weight decay {training.weight_decay:g}",
        f"- Seed {training.seed}, {choices['precision']}, {choices['processes']} process(es),"
        f" {known.seconds:.0f} seconds",
        "",
        "`run.json` has the whole configuration, versions and hashes: enough to repeat it.",
        "",
    ]


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    more = f", and {len(labels) - NAMED} more" if labels[NAMED:] else ""
    return f"; labels: {', '.join(map(plain, labels[:NAMED]))}{more}"


def _method(config: RunConfig) -> str:
    method = config.method
    if method.type in LORAS:
        name = {MethodType.LORA: "LoRA", MethodType.DORA: "DoRA", MethodType.QLORA: "QLoRA"}[method.type]
        return f"{name}, rank {method.lora.r}, alpha {method.lora.alpha}, on {', '.join(method.lora.target_modules)}"
    if method.type is MethodType.FREEZE:
        frozen = "all but the head" if method.freeze.backbone else f"layers {method.freeze.layers}"
        return f"fine-tuning with {frozen} frozen"
    if method.virtual_tokens:
        return f"{method.type} tuning, {method.virtual_tokens} virtual tokens"
    return "full fine-tuning" if method.type is MethodType.FULL else str(method.type)


def _use(known: Known) -> list[str]:
    lines = [
        "## Use",
        "",
        "`finetune predict RUN FILE`, where RUN is this file's folder, or in Python beside the folder `model`:",
        "",
        "```python",
        known.usage,
        "```",
    ]
    if known.adapter:
        lines += ["", "`model/` holds the base model and the adapter beside it, which loading puts on (peft)."]
    return lines


def code(text: Any) -> str:
    """A text of the data between backticks, as one line that ends no code."""
    return f"`{' '.join(str(text).replace('`', chr(39)).split())[:120]}`"


def plain(text: Any) -> str:
    """A text of the data in a sentence: as one line, without what Markdown or HTML takes for its own."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(str(text).split()))
