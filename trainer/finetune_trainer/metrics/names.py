"""Which metrics a task can have, known before anything is measured.

Some are left out where the rows do not define them: `roc_auc` of a class without rows, `r2` of a constant target.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.dataset import ProblemType
from finetune_api.job import Task

TEST = "test_"
_LABELS = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "baseline_accuracy")
_MORE_LABELS: Mapping[ProblemType, tuple[str, ...]] = {
    ProblemType.SINGLE_LABEL: ("top5_accuracy", "roc_auc"),
    ProblemType.MULTI_LABEL: ("precision_micro", "recall_micro", "f1_micro", "roc_auc_macro"),
}
_WRITING = ("perplexity", "token_accuracy")
_RECALL = tuple(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))

_NAMES: Mapping[Task, tuple[str, ...]] = {
    Task.TEXT_CLASSIFICATION: _LABELS,
    Task.TEXT_REGRESSION: ("mse", "mae", "rmse", "r2", "pearson", "baseline_mse"),
    Task.TOKEN_CLASSIFICATION: ("f1", "precision", "recall", "f1_macro", "accuracy", "baseline_accuracy"),
    Task.QUESTION_ANSWERING: (
        *(f"{name}{which}" for name in ("exact_match", "f1") for which in ("", "_answerable", "_unanswerable")),
        "baseline_f1",
    ),
    Task.SUMMARIZATION: ("rouge1", "rouge2", "rougeL", "baseline_rougeL"),
    Task.TRANSLATION: ("bleu", "chrf", "baseline_chrf"),
    Task.TEXT_GENERATION: _WRITING,
    Task.PREFERENCE_OPTIMIZATION: ("reward_accuracy", "reward_margin", "baseline_reward_accuracy"),
    Task.FILL_MASK: ("perplexity", "masked_accuracy", "baseline_masked_accuracy"),
    Task.IMAGE_CLASSIFICATION: _LABELS,
    Task.AUDIO_CLASSIFICATION: _LABELS,
    Task.AUTOMATIC_SPEECH_RECOGNITION: ("wer", "cer"),
    Task.IMAGE_TEXT_TO_TEXT: (*_WRITING, "exact_match", "baseline_exact_match"),
    Task.IMAGE_TEXT_CONTRASTIVE: (
        *_RECALL,
        "image_to_text_median_rank",
        "text_to_image_median_rank",
        "recall@1",
        "baseline_recall@1",
    ),
    Task.MULTIMODAL_CLASSIFICATION: _LABELS,
}


def names_of(task: Task, problem: ProblemType) -> tuple[str, ...]:
    """Every metric that an evaluation of the task may have, without the name of the side before it."""
    names = _NAMES[task]
    return ("loss", *names, *(_MORE_LABELS[problem] if names is _LABELS else ()))
