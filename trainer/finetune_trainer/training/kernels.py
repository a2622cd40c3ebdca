"""Liger's kernels: norms, rotary positions and gated units of large language models, written in Triton for GPUs.

Their loss is not used: chunked_loss.py has the trainer's own, which knows of label smoothing and masked positions.
Torch and liger_kernel are imported only where kernels are put in: the preflight reads the upper half.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.job import Task
from finetune_api.training import Use
from finetune_trainer.errors import ConfigError
from finetune_trainer.training.compiling import compiler

if TYPE_CHECKING:
    import torch
    from torch import nn

    from finetune_api.run import RunConfig
    from finetune_trainer.model_folder import ModelFolder

FIELD = "spec.training.kernels"
TABLE = "MODEL_TYPE_TO_APPLY_LIGER_FN"
TASKS = frozenset({Task.TEXT_GENERATION, Task.PREFERENCE_OPTIMIZATION})
"""Tasks whose models are those that the kernels are for: they continue a text."""


def check_kernels(config: RunConfig, model: ModelFolder, gpus: int) -> None:
    """Raise ConfigError if kernels have to be used and cannot be here; `gpus` is how many are used."""
    if config.training.kernels is not Use.ALWAYS:
        return
    if config.task not in TASKS:
        message = f"{FIELD}: Always is for {' and '.join(sorted(TASKS))}, and the task is {config.task}"
        raise ConfigError("NotSupported", message, "use Auto or Never")
    known = architectures()
    if known and model.model_type not in known:
        message = f"{FIELD}: Always: Liger has no kernels for a {model.model_type} model"
        raise ConfigError("NotSupported", message, f"use Auto or Never; it has some for {', '.join(sorted(known))}")
    if not gpus:
        message = f"{FIELD}: Always: Liger's kernels need a GPU with CUDA, and this run has none"
        raise ConfigError(
            "NotSupported", message, "use Auto or Never, or ask for a GPU with spec.resources.gpusPerNode"
        )
    if not known:
        message = f"{FIELD}: Always: liger-kernel is not installed in this image"
        raise ConfigError(
            "NotInstalled", message, "use an image with GPU support, pip install liger-kernel, or use Auto"
        )
    if compiler(on_gpu=True) is None:
        message = f"{FIELD}: Always: Triton, which Liger's kernels are written in, needs a C compiler, and none is here"
        raise ConfigError("NotInstalled", message, "use an image with gcc, or Auto")


def architectures() -> frozenset[str]:
    """Model types that the installed release has kernels for, read without importing it; none if it is not there."""
    package = find_spec("liger_kernel")
    for folder in package.submodule_search_locations or () if package else ():
        source = Path(folder, "transformers", "monkey_patch.py")
        if source.exists():
            return _keys_of(ast.parse(source.read_text(encoding="utf-8")))
    return frozenset()


def _keys_of(module: ast.Module) -> frozenset[str]:
    for line in module.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Dict):
            named = any(isinstance(target, ast.Name) and target.id == TABLE for target in line.targets)
            if named:
                return frozenset(str(key.value) for key in line.value.keys if isinstance(key, ast.Constant))
    return frozenset()


def uses_kernels(config: RunConfig, model: ModelFolder, device: torch.device) -> bool:
    """Whether to use them: on a GPU, where the architecture has some and nothing forbids it."""
    training = config.training
    if training.kernels is Use.NEVER or device.type != "cuda" or config.task not in TASKS:
        return False
    able = model.model_type in architectures() and compiler(on_gpu=True) is not None
    return able and training.compile is not Use.ALWAYS


def apply_kernels(module: nn.Module) -> None:
    """Put them into the model in `module`, also below an adapter."""
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance  # type: ignore[import-untyped]
    from transformers import PreTrainedModel

    model = next(part for part in module.modules() if isinstance(part, PreTrainedModel))
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
