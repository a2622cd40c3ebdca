"""A peer's side: transformers.Trainer, or TRL's SFTTrainer, on what `prepare` left.

`python -m benchmarks.trainer.peer FOLDER SIDE RESULT THREADS OPTIONS`; options are further TrainingArguments as JSON.

Nothing of our trainer is imported here. Every peer has our optimizer, schedule and clipping, and but for what its side
is about, the options that are the fastest: fused AdamW (its default), no look for infinite losses, no progress bar, no
pinned memory on a CPU, rows in memory as lists, and no worker process, which has no core of its own among two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.trainer import devices
from benchmarks.trainer.sides import GROUPED, SCRIPTS, SIDES, TRL_PADDED, TRL_PADDING_FREE, Side
from benchmarks.trainer.stopwatch import Stopwatch
from benchmarks.trainer.workloads import SEED, Workload, read_workload

Told = Mapping[str, Any]
Collate = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
IGNORED = -100


class Order(Sampler[int]):
    """The rows in the order that is given, those of all epochs one after the other."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


class Watched(TrainerCallback):
    """Holds the watch while the trainer trains."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, *about: Any, **more: Any) -> None:  # noqa: ARG002
        self.watch.start()

    def on_step_end(self, arguments: Any, state: Any, control: Any, **more: Any) -> None:  # type: ignore[override]  # noqa: ARG002
        self.watch.step(devices.wait if state.global_step == state.max_steps else None)

    def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:  # type: ignore[override]  # noqa: ARG002
        if logs and "loss" in logs:
            self.watch.losses.append((state.global_step, float(logs["loss"])))

    def on_train_end(self, *about: Any, **more: Any) -> None:  # noqa: ARG002
        self.watch.stop(devices.peak_mib())


@dataclass
class Counting:
    """Puts rows together by `collate`, and counts them, and what of them is no padding."""

    collate: Collate
    watch: Stopwatch

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collate(rows)
        self.watch.rows += len(rows)
        tokens, computed = _size(batch)
        self.watch.tokens += tokens or len(rows)
        self.watch.computed += computed
        return batch


def _size(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Tokens or samples that are no padding, and with padding; of a model that writes after reading both texts'."""
    if "input_values" in batch:
        return int(batch["attention_mask"].sum()), batch["input_values"].numel()
    if "input_ids" not in batch:
        return 0, 0
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    tokens, computed = ids.numel() if mask is None else int(mask.sum()), ids.numel()
    if "decoder_input_ids" in batch:
        tokens, computed = tokens + int((batch["labels"] != IGNORED).sum()), computed + batch["labels"].numel()
    return tokens, computed


def arguments(workload: Workload, side: Side, folder: Path, precision: str, gpus: int) -> dict[str, Any]:
    """What every trainer is told. `precision` is ours; the peers have no fp8, and by themselves fp32 on a CPU."""
    steps = workload.steps
    epochs = workload.epochs if side.name == GROUPED else 1
    return {
        "output_dir": str(folder / "peer"),
        "per_device_train_batch_size": workload.batch,
        "num_train_epochs": epochs,
        "learning_rate": workload.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.01,
        "adam_epsilon": 1e-6,
        "max_grad_norm": 1.0,
        "logging_steps": min(50, max(1, steps // 100)),
        "logging_nan_inf_filter": side.name == SCRIPTS,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": gpus == 0,
        "bf16": precision in ("bf16", "fp8") or (gpus > 0 and precision == "auto"),
        "dataloader_pin_memory": gpus > 0,
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
        "seed": SEED,
        "train_sampling_strategy": "group_by_length" if side.name == GROUPED else "random",
    }


def load_model(folder: Path) -> Any:
    """The model as our run starts with it, in 32 bits, and of it trained what our run trains."""
    start = folder / "start"
    name = json.loads((start / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = getattr(transformers, name).from_pretrained(start, dtype=torch.float32)
    if (start / "adapter").exists():
        from peft import PeftModel

        return PeftModel.from_pretrained(model, start / "adapter", is_trainable=True)
    trained = set(json.loads((start / "trained.json").read_text(encoding="utf-8")))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model.train()


def collator(workload: Workload, side: Side, folder: Path, model: Any) -> Collate:
    """The collator that the example script of the task takes."""
    start = folder / "start"
    if workload.task == "image-classification":
        return _pictures(start)
    if workload.task == "automatic-speech-recognition":
        return _clips(start)
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    if workload.task in ("summarization", "text-generation"):
        of = model if workload.task == "summarization" else None
        found: Collate = transformers.DataCollatorForSeq2Seq(tokenizer, model=of, label_pad_token_id=IGNORED)
        return found
    padding = {"padding": "max_length", "max_length": workload.pad_to} if side.name == SCRIPTS else {"padding": True}
    padded: Collate = transformers.DataCollatorWithPadding(tokenizer, **padding)
    return padded


def _pictures(start: Path) -> Collate:
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(start, backend="pil")  # type: ignore[no-untyped-call]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [Image.open(row["image"]).convert("RGB") for row in rows]
        return {
            **processor(images=images, return_tensors="pt"),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    return collate


def _clips(start: Path) -> Collate:
    import soundfile  # type: ignore[import-untyped]

    extractor = transformers.AutoFeatureExtractor.from_pretrained(start)  # type: ignore[no-untyped-call]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        heard = [soundfile.read(row["audio"], dtype="float32")[0] for row in rows]
        inputs = extractor(heard, sampling_rate=extractor.sampling_rate, padding=True, return_tensors="pt")
        labels = [torch.tensor(row["labels"]) for row in rows]
        return {**inputs, "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)}

    return collate


def hugging_face(workload: Workload, side: Side, folder: Path, told: Told, watch: Stopwatch) -> Trainer:
    model, rows = load_model(folder), read_rows(folder)
    if side.name == GROUPED:
        rows = [row | {"length": len(row["input_ids"])} for row in rows]
    collate = collator(workload, side, folder, model)
    return _ordered(Trainer, side, folder)(
        model=model,
        args=TrainingArguments(**told),
        train_dataset=rows,
        data_collator=Counting(_without_length(collate) if side.name == GROUPED else collate, watch),
        callbacks=[Watched(watch)],
    )


def _without_length(collate: Collate) -> Collate:
    return lambda rows: collate([{name: value for name, value in row.items() if name != "length"} for row in rows])


def trl(workload: Workload, side: Side, folder: Path, told: Told, watch: Stopwatch) -> Trainer:  # noqa: ARG001
    """SFTTrainer on the same tokens. Padded it has its own defaults, but for the length, which is ours."""
    from datasets import Dataset  # type: ignore[import-untyped]
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found,unused-ignore]

    own = dict(told) | {"remove_unused_columns": True}
    config = SFTConfig(
        **own, max_length=None, packing=False, padding_free=side.name == TRL_PADDING_FREE, gradient_checkpointing=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "start")
    trainer = _ordered(SFTTrainer, side, folder)(
        model=load_model(folder),
        args=config,
        train_dataset=Dataset.from_list(read_rows(folder)),
        processing_class=tokenizer,
        callbacks=[Watched(watch)],
    )
    trainer.data_collator = Counting(trainer.data_collator, watch)
    return trainer


def _ordered(trainer: type[Trainer], side: Side, folder: Path) -> type[Trainer]:
    """The trainer with our order of rows; the grouped side has one of its own."""
    if side.name == GROUPED:
        return trainer
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))

    class Ordered(trainer):  # type: ignore[misc,valid-type]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Order:
            return Order(order)

    return Ordered


def read_rows(folder: Path) -> list[dict[str, Any]]:
    with (folder / "rows.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    folder, side, result = Path(sys.argv[1]), SIDES[sys.argv[2]], Path(sys.argv[3])
    workload, precision, gpus = read_workload(folder)
    torch.set_num_threads(int(sys.argv[4]))
    make = trl if side.name in (TRL_PADDED, TRL_PADDING_FREE) else hugging_face
    watch = Stopwatch()
    told = arguments(workload, side, folder, precision, gpus) | json.loads(sys.argv[5])
    make(workload, side, folder, told, watch).train()
    watch.write(result)


if __name__ == "__main__":
    main()
