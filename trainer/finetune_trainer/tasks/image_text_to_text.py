"""image-text-to-text: what to say of an image when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.analysis.substitutions import substitutions
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts, writing
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Example, Examples, Goal, Report, TaskKind, wrong_row
from finetune_trainer.tasks.images import opened_image
from finetune_trainer.tasks.writing import Score

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from finetune_trainer.training.world import World

PER_TOKEN = 2
"""Dimensions of what the processor says of each token."""


@dataclass(frozen=True)
class Told:
    """What the model writes, and how surely it says what it should."""

    text: str
    score: Score

    def plain(self) -> dict[str, Any]:
        return {"generated_text": self.text, **self.score.plain()}


class ImageTextToText(TaskKind):
    """The loss is cross-entropy counted in tokens of the completions, the end-of-text token included.

    Examples have the image unread and the prompt as text: only the processor knows what the two are to the model.
    """

    roles = Roles(
        {"image": columns.image, "prompt": columns.text, "completion": columns.text},
        needed=(("image", "prompt", "completion"),),
        targets=("completion",),
    )
    inputs = ("image", "prompt")
    auto_classes = ("AutoModelForImageTextToText",)
    parts = (Part.TOKENIZER, Part.IMAGE_PROCESSOR)
    augments = {"image": augments.PICTURES}
    evaluation_rows = 8
    goal = Goal("exact_match")
    usage = """\
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("model")
processor = AutoProcessor.from_pretrained("model", backend="pil")
asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A question?"}]}]
prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
inputs = processor(images=Image.open("picture.png").convert("RGB"), text=prompt, return_tensors="pt")
tokens = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
processor.decode(tokens, skip_special_tokens=True)"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.processor = pretrained.load_processor(source)
        self.tokenizer = self.processor.tokenizer
        self.limit = texts.longest(source, self.tokenizer, config)
        self.image_token = getattr(self.processor, "image_token", "<image>")
        writing.check_end(self.tokenizer)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForImageTextToText

        config = pretrained.load_config(self.source, self.config)
        return pretrained.load_weights(AutoModelForImageTextToText, self.source, self.config, config)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        found = [self._example(row) for row in rows]
        return [example for example, _ in found], sum(cut for _, cut in found)

    def _example(self, row: Row) -> tuple[Example, bool]:
        """The row with its lengths in tokens, and whether its completion was cut."""
        example = {"image": row.values["image"], "place": row.place, "prompt": self._prompt(row)}
        example["length"] = self._inputs([example], "right")["input_ids"].shape[1]
        if example["length"] >= self.limit:
            raise _no_room(row, example["length"], self.limit)
        if "completion" not in row.values:
            return example, False
        completion = self.tokenizer(row.values["completion"], add_special_tokens=False, verbose=False)["input_ids"]
        whole, room = [*completion, self.tokenizer.eos_token_id], self.limit - example["length"]
        if len(whole) > room and not self.training.truncation:
            raise texts.too_long(row, self.limit, "row")
        return {**example, "completion": whole[:room]}, len(whole) > room

    def _prompt(self, row: Row) -> str:
        """The prompt after the image, as the model's chat template says it if there is one."""
        prompt = row.values["prompt"]
        if self.image_token in prompt:
            message = f"{row.place}: the prompt has {self.image_token}, which stands for the image"
            raise DataError("ImageInPrompt", message, "leave it out; the image comes before the prompt by itself")
        if not self.processor.chat_template:
            return f"{self.image_token}\n{prompt}"
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        said: str = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        return said

    def _inputs(self, examples: Sequence[Example], side: str) -> dict[str, torch.Tensor]:
        """Images and prompts as the processor prepares them, padded on a side."""
        images = [opened_image(example, self.augment.image if self.augment else None) for example in examples]
        prompts = [example["prompt"] for example in examples]
        # A template may say the beginning of the text itself.
        bare = self.tokenizer.bos_token is not None and prompts[0].startswith(self.tokenizer.bos_token)
        options = {"add_special_tokens": False} if bare else {}
        return dict(
            self.processor(images=images, text=prompts, padding=True, padding_side=side, return_tensors="pt", **options)
        )

    def size(self, example: Example) -> int:
        length: int = example["length"] + len(example.get("completion", ()))
        return length

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        longest = max(len(example["completion"]) for example in examples[Side.TRAIN])
        end = self.tokenizer.eos_token_id
        writing.set_lengths(model, self.tokenizer.pad_token_id, longest, ends=(end,))
        return examples

    def collate(self, examples: Sequence[Example]) -> Batch:
        inputs, tokens = self._inputs(examples, "right"), sum(self.size(example) for example in examples)
        if "completion" not in examples[0]:
            return Batch(inputs, {}, 0, tokens, examples)
        said = [example["completion"] for example in examples]
        inputs = self._extended(inputs, [example["length"] for example in examples], said)
        before = [range(example["length"] - 1, self.size(example) - 1) for example in examples]
        targets = writing.aims(said, before, inputs["input_ids"].shape[1])
        return Batch(inputs, targets, len(targets["labels"]), tokens, examples)

    def _extended(
        self, inputs: dict[str, torch.Tensor], lengths: Sequence[int], said: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """With the completions after the prompts; of what the processor says of tokens they get zeros."""
        import torch
        from torch.nn import functional

        shape = inputs["input_ids"].shape
        further = max(length + len(tokens) for length, tokens in zip(lengths, said, strict=True)) - shape[1]
        longer = {
            name: functional.pad(tensor, (0, further), value=self.tokenizer.pad_token_id if name == "input_ids" else 0)
            for name, tensor in inputs.items()
            if tensor.dim() == PER_TOKEN and tensor.shape == shape
        }
        for row, (length, tokens) in enumerate(zip(lengths, said, strict=True)):
            longer["input_ids"][row, length : length + len(tokens)] = torch.tensor(tokens)
            longer["attention_mask"][row, length : length + len(tokens)] = 1
        return inputs | longer

    @property
    def token_loss(self) -> writing.TokenLoss:
        return writing.TokenLoss(self.training.label_smoothing)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return writing.loss(outputs, batch, self.training.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:
        scores = writing.scores(outputs, batch, [len(example["completion"]) for example in batch.notes])
        return [Told(text, score) for text, score in zip(self._write(model, batch.notes), scores, strict=True)]

    def _write(self, model: nn.Module, examples: Sequence[Example]) -> list[str]:
        device = next(model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in self._inputs(examples, "left").items()}
        width = inputs["input_ids"].shape[1]
        written = writing.write(model, inputs)
        return [self.tokenizer.decode(tokens[width:], skip_special_tokens=True) for tokens in written]

    def present(self, prediction: Any) -> dict[str, Any]:
        said: dict[str, Any] = prediction.plain()
        return said

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        if "completion" in examples[0]:
            return super().answer(model, examples)
        return [{"generated_text": text} for text in self._write(model, examples)]

    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
        report = writing.report(rows, [told.score for told in predictions], self.tokenizer)
        right = [_same(told.text, row.values["completion"]) for told, row in zip(predictions, rows, strict=True)]
        values = {**report.metrics, "exact_match": fmean(right)}
        if baseline is not None:
            usual = Counter(row.values["completion"] for row in baseline).most_common(1)[0][0]
            values["baseline_exact_match"] = fmean(_same(usual, row.values["completion"]) for row in rows)
        wrong = [place for place in range(len(rows)) if not right[place]]
        wrong.sort(key=lambda place: -float(predictions[place].score.nll))
        return Report(values, {}, [_error(rows[place], predictions[place]) for place in wrong[:MOST_ERRORS]])

    def analyse(self, rows: Sequence[Row], predictions: Sequence[Any]) -> dict[str, Any]:
        """Which whole answers are most often given for others."""
        both = zip(rows, predictions, strict=True)
        pairs = Counter((row.values["completion"].strip(), told.text.strip()) for row, told in both)
        return substitutions({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})

    def save(self, folder: Path) -> None:
        pretrained.forget_lengths(self.processor.tokenizer)
        self.processor.save_pretrained(str(folder))


def _error(row: Row, told: Told) -> dict[str, Any]:
    return wrong_row(row, prediction=told.text, **told.score.plain())


def _same(one: str, other: str) -> bool:
    return one.strip() == other.strip()


def _no_room(row: Row, length: int, limit: int) -> DataError:
    message = f"{row.place}: image and prompt are {length} tokens, and the model or maxLength allows {limit}"
    return DataError("TooLong", message, "shorten the prompt, raise spec.training.maxLength, or remove the row")
