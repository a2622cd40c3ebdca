"""The programs that are compared, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.trainer.workloads import Workload

OURS, AUTO, DYNAMIC, GROUPED, SCRIPTS = "ours", "ours-auto", "trainer", "trainer-grouped", "trainer-scripts"
TRL_PADDED, TRL_PADDING_FREE = "trl", "trl-padding-free"


@dataclass(frozen=True)
class Side:
    """`same_steps` says whether each of its steps has the same rows as ours."""

    name: str
    what: str
    same_steps: bool = True


SIDES: Mapping[str, Side] = {
    side.name: side
    for side in (
        Side(OURS, "this trainer, started as in a pod"),
        Side(AUTO, "this trainer with `precision: auto`, beside (a) in fp32: its ratio is (a)'s seconds by its own"),
        Side(DYNAMIC, "(a) transformers.Trainer, dynamic padding, the best of its own options"),
        Side(GROUPED, "(a') the same with group_by_length: other rows share a step", same_steps=False),
        Side(SCRIPTS, "(b) transformers.Trainer as its example scripts set it: padded to the longest length"),
        Side(TRL_PADDED, "(c) TRL's SFTTrainer, padded"),
        Side(TRL_PADDING_FREE, "(c') TRL's SFTTrainer, padding_free"),
    )
}


def sides_of(workload: Workload) -> list[str]:
    """The sides that a workload has: in the precision of its choice on a CPU, grouped by length where rows have tokens,
    TRL where it can do the task.
    """
    found = [OURS, DYNAMIC] if workload.gpu else [OURS, AUTO, DYNAMIC]
    if workload.model in ("bert", "llama", "t5"):
        found.append(GROUPED)
    if workload.pad_to is not None:
        found.append(SCRIPTS)
    if workload.task == "text-generation":
        found += [TRL_PADDED, TRL_PADDING_FREE]
    return found
