"""The metadata at the head of a model card, as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.uri import hub_repository, is_hub
from finetune_trainer.model_folder import ModelFolder

PIPELINES: Mapping[Task, str] = {
    Task.TEXT_REGRESSION: "text-classification",
    Task.PREFERENCE_OPTIMIZATION: "text-generation",
    Task.IMAGE_TEXT_CONTRASTIVE: "zero-shot-image-classification",
}
"""What the hub calls a task, where it is not our own name."""
METRICS = {"r2": "r_squared", "pearson": "pearsonr", "rouge1": "rouge", "rouge2": "rouge", "rougeL": "rouge"}
WORDS = ("accuracy", "f1", "precision", "recall", "exact_match", "perplexity", "roc_auc")
OWN = "finetune-operator"


def metadata(
    config: RunConfig, rows: Mapping[str, int], metrics: Mapping[str, float], license: str | None, adapter: bool
) -> str:
    """The YAML between the card's two lines of dashes."""
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = pipeline_of(config.task)
    sets = [repository_of(source.uri) for _, source in config.dataset.sources() if is_hub(source.uri)]
    tested = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    tested = {name: value for name, value in tested.items() if not name.startswith("baseline_")}
    bases = [repository_of(uri) for uri in config.model.uris().values() if is_hub(uri)]
    results = [
        EvalResult(
            task_type=pipeline or str(config.task),
            dataset_type=sets[0] if sets else "custom",
            dataset_name=f"{sets[0] if sets else 'held-out rows'} ({rows.get('test', 0)} test rows)",
            dataset_split="test",
            metric_type=metric_of(name),
            metric_name=name,
            metric_value=round(value, 6),
        )
        for name, value in tested.items()
    ]
    known: dict[str, Any] = {
        "license": license,
        "base_model": bases[0] if len(bases) == 1 else bases or None,
        "base_model_relation": ("adapter" if adapter else "finetune") if bases else None,
        "pipeline_tag": pipeline,
        "library_name": _library(config, adapter),
        "tags": [OWN, str(config.task), str(config.method.type)],
        "datasets": list(dict.fromkeys(sets)) or None,
        "metrics": list(dict.fromkeys(map(metric_of, tested))) or None,
        "model_name": config.job.name if results else None,
        "eval_results": results or None,
    }
    return str(ModelCardData(**known).to_yaml(line_break="\n"))


def pipeline_of(task: Task) -> str | None:
    """None for a model that no pipeline of transformers loads."""
    return None if task is Task.MULTIMODAL_CLASSIFICATION else PIPELINES.get(task, str(task))


def _library(config: RunConfig, adapter: bool) -> str | None:
    if config.task is Task.MULTIMODAL_CLASSIFICATION:
        return None
    return "peft" if adapter else "transformers"


def repository_of(uri: str) -> str:
    return hub_repository(uri, uri)


def metric_of(name: str) -> str:
    """The hub's name of a metric of ours: `f1` of `f1_macro`."""
    if name in METRICS:
        return METRICS[name]
    return next((word for word in WORDS if word in name), name)


def license_of(source: ModelFolder) -> str | None:
    """What the base model's own card says, if it lies beside the model."""
    from huggingface_hub import ModelCard

    path = source.path / "README.md"
    if source.encoders or not path.is_file():
        return None
    try:
        found = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict().get("license")
    except Exception:  # a card that somebody wrote by hand may hold anything
        return None
    return found if isinstance(found, str) else None
