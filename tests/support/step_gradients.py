"""The gradient of a run's first step as the trainer computes it: in one piece, in four, and by two processes.

Each way is a process forked from the warm one, with the trainer's own building, cutting and summing; only the
optimizer does not move.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.run import RunConfig
from support.runs import ARun, WarmTrainer

if TYPE_CHECKING:
    import torch

PATIENCE = 120.0
Tensors = dict[str, "torch.Tensor"]


def step_gradients(trainer: WarmTrainer, run: ARun, micro_batch: int, processes: int = 1) -> Tensors:
    """Gradient of each trained parameter, and running averages, after a step in parts of `micro_batch` rows."""
    import torch

    title = f"{processes}x{micro_batch}"
    run = run.with_("training", microBatchSize=micro_batch).with_processes(processes)
    run = ARun(run.root / title, {**run.config, "folder": str(run.root / title / "run")})
    run.folder.mkdir(parents=True)
    path, port = run.write(), _free_port()
    ranks = [
        trainer.fork(_rank, (rank, processes, port, str(path), str(run.root / "log"))) for rank in range(processes)
    ]
    for rank in ranks:
        rank.join(PATIENCE)
        assert rank.exitcode == 0, (run.root / "log").read_text()
    tensors: Tensors = torch.load(run.root / "gradients.pt")
    return tensors


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rank(rank: int, size: int, port: int, config: str, log: str) -> None:
    import torch

    from finetune_trainer.preflight import load_run_config
    from finetune_trainer.training import world

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    tensors = _gradients(load_run_config(Path(config)), world.open_world(use_gpu=False))
    if rank == 0:
        torch.save(tensors, Path(config).with_name("gradients.pt"))


def _gradients(config: RunConfig, world: object) -> Tensors:
    from finetune_trainer.methods import METHODS
    from finetune_trainer.preflight import check_inputs
    from finetune_trainer.report.reporter import Reporter
    from finetune_trainer.training.build import build_run
    from finetune_trainer.training.feeding import next_batches
    from finetune_trainer.training.gradients import accumulate
    from finetune_trainer.training.loop import agree
    from finetune_trainer.training.world import World

    assert isinstance(world, World)
    method = METHODS[config.method.type](config.method)
    run = build_run(config, check_inputs(config, None), method, world, Reporter([], None, time.time), threads=1)
    parts = next_batches(run)
    count = agree(run, parts).count
    accumulate(run, parts)
    factor = run.world.size / count
    gradients = {name: item.grad * factor for name, item in run.model.named_parameters() if item.grad is not None}
    averages = {name: item for name, item in run.model.named_buffers() if item.is_floating_point()}
    return gradients | averages
