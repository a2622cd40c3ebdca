"""The tasks by name, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.job import Task
from finetune_trainer.tasks.audio_classification import AudioClassification
from finetune_trainer.tasks.automatic_speech_recognition import AutomaticSpeechRecognition
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.tasks.fill_mask import FillMask
from finetune_trainer.tasks.image_classification import ImageClassification
from finetune_trainer.tasks.image_text_contrastive import ImageTextContrastive
from finetune_trainer.tasks.image_text_to_text import ImageTextToText
from finetune_trainer.tasks.multimodal_classification import MultimodalClassification
from finetune_trainer.tasks.preference_optimization import PreferenceOptimization
from finetune_trainer.tasks.question_answering import QuestionAnswering
from finetune_trainer.tasks.summarization import Summarization
from finetune_trainer.tasks.text_classification import TextClassification
from finetune_trainer.tasks.text_generation import TextGeneration
from finetune_trainer.tasks.text_regression import TextRegression
from finetune_trainer.tasks.token_classification import TokenClassification
from finetune_trainer.tasks.translation import Translation

TASKS: Mapping[Task, type[TaskKind]] = {
    Task.TEXT_CLASSIFICATION: TextClassification,
    Task.TEXT_REGRESSION: TextRegression,
    Task.TOKEN_CLASSIFICATION: TokenClassification,
    Task.QUESTION_ANSWERING: QuestionAnswering,
    Task.SUMMARIZATION: Summarization,
    Task.TRANSLATION: Translation,
    Task.TEXT_GENERATION: TextGeneration,
    Task.PREFERENCE_OPTIMIZATION: PreferenceOptimization,
    Task.FILL_MASK: FillMask,
    Task.IMAGE_CLASSIFICATION: ImageClassification,
    Task.AUDIO_CLASSIFICATION: AudioClassification,
    Task.AUTOMATIC_SPEECH_RECOGNITION: AutomaticSpeechRecognition,  # type: ignore[type-abstract]
    Task.IMAGE_TEXT_TO_TEXT: ImageTextToText,
    Task.IMAGE_TEXT_CONTRASTIVE: ImageTextContrastive,
    Task.MULTIMODAL_CLASSIFICATION: MultimodalClassification,
}
