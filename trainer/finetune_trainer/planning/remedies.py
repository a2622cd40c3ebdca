"""What to change in a run that does not fit, from what costs least to what changes the result: pure but for `fits`.

Changes are added one after another until the run fits. Of those, what turns out not to be needed is left out again,
and at last the micro-batch is as large as it can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_api.training import Optimizer, Precision, Use

Change = Mapping[str, Any]
"""Path of a field to its new value, as `--set` takes it."""
MICRO_BATCH = "spec.training.microBatchSize"


def changed(config: RunConfig, change: Change) -> RunConfig:
    """`config` with fields replaced."""
    document = config.to_dict()
    for path, value in change.items():
        _, *sections, name = path.split(".")
        owner = document
        for section in sections:
            owner = owner.setdefault(section, {})
        owner[name] = value
    return RunConfig.model_validate(document)


def levers(config: RunConfig, processes: int, precision: str, on_gpu: bool, recomputes: bool) -> list[dict[str, Any]]:
    """The changes that there are beside the micro-batch, what costs least first. `recomputes`: done already, or
    impossible.
    """
    training, kind = config.training, config.method.type
    found: list[dict[str, Any]] = []
    if not recomputes:
        found.append({"spec.training.gradientCheckpointing": Use.ALWAYS.value})
    if precision == Precision.FP32:
        found.append({"spec.training.precision": Precision.BF16.value})
    if training.optimizer is Optimizer.ADAMW:
        found.append({"spec.training.optimizer": Optimizer.ADAMW_8BIT.value})
    if processes > 1 and config.parallelism.strategy != "fsdp" and kind is not MethodType.QLORA:
        found.append({"spec.parallelism.strategy": "fsdp"})
    if kind is MethodType.FULL:
        found.append({"spec.method.type": MethodType.LORA.value})
    if on_gpu and kind in (MethodType.FULL, MethodType.LORA):
        found.append({"spec.method.type": MethodType.QLORA.value})
    return found


def remedy(rows: int, levers: Sequence[Change], fits: Callable[[Change], bool]) -> Change | None:
    """The changes after which a run with micro-batches of `rows` fits; None if none of these help.

    `rows` is 1 where they cannot be smaller.
    """
    done: list[Change] = []
    for lever in [{}, *levers]:
        done = [*done, lever] if lever else done
        if not fits(_joined(done, 1 if rows > 1 else None)):
            continue
        return _with_most_rows(_needed(done, rows, fits), rows, fits)
    return None


def _needed(done: Sequence[Change], rows: int, fits: Callable[[Change], bool]) -> list[Change]:
    """Without what the last change has made needless; what changes the result most is left out first."""
    kept = list(done)
    for lever in reversed(done[:-1]):
        fewer = [one for one in kept if one is not lever]
        if _joined(fewer, None) != _joined(kept, None) and fits(_joined(fewer, 1 if rows > 1 else None)):
            kept = fewer
    return kept


def _with_most_rows(done: Sequence[Change], rows: int, fits: Callable[[Change], bool]) -> Change:
    tried: int | None = None
    for count in _halved(rows):
        tried = None if count == rows else count
        if fits(_joined(done, tried)):
            break
    return _joined(done, tried)


def _halved(rows: int) -> list[int]:
    counts = [rows]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts


def _joined(changes: Sequence[Change], rows: int | None) -> Change:
    joined: dict[str, Any] = {} if rows is None else {MICRO_BATCH: rows}
    for change in changes:
        joined |= change
    return joined


def as_options(change: Change) -> list[str]:
    """Each change as it can be pasted behind `finetune run FILE`."""
    return [f"--set {path}={value}" for path, value in change.items()]
