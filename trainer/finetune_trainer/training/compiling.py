"""torch.compile of a model's layers: each kind of layer is translated once, for rows of any number and length.

Only the blocks that repeat are compiled (what torch calls regional compilation): they are all but the whole of a step,
one translation does for all of them, and what stands around, tokens going in and the loss, stays as it is. Evaluation
and generation, which see other shapes and types of arguments, go on as before.

Torch is imported only where something is compiled: the preflight reads the upper half.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from finetune_api.training import Use
from finetune_trainer.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from finetune_api.run import RunConfig
    from finetune_api.training import Training

FIELD = "spec.training.compile"
DDP, FSDP = "ddp", "fsdp"
LONG = 1_000
"""Steps from which on a run on a GPU takes the minute that compiling takes."""


def check_compile(config: RunConfig, gpus: int) -> None:
    """Raise ConfigError if the run is to be compiled and cannot be here; `gpus` is how many are used."""
    training = config.training
    if training.compile is not Use.ALWAYS:
        return
    if training.padding_free is Use.ALWAYS:
        message = (
            f"{FIELD}: Always cannot go with spec.training.paddingFree: Always, whose shapes differ in every layer"
        )
        raise ConfigError("NotSupported", message, "use Auto for one of them")
    if training.kernels is Use.ALWAYS:
        message = f"{FIELD}: Always cannot go with spec.training.kernels: Always, as both replace the same layers"
        raise ConfigError("NotSupported", message, "use Auto for one of them")
    if config.parallelism.strategy == FSDP:
        message = f"{FIELD}: Always cannot go with spec.parallelism.strategy: fsdp"
        raise ConfigError("NotSupported", message, "use Never, or the strategy ddp")
    if compiler(gpus > 0) is None:
        message = f"{FIELD}: Always needs a compiler, and this image has no {' or '.join(_names(gpus > 0))}"
        hint = "install it (Debian: apt-get install g++), name another in the environment variable CXX, or use Auto"
        raise ConfigError("NoCompiler", message, hint)


def compiler(on_gpu: bool) -> str | None:
    """Where the compiler lies that torch calls."""
    return next((path for name in _names(on_gpu) if (path := shutil.which(name)) is not None), None)


def _names(on_gpu: bool) -> list[str]:
    """On a GPU Triton compiles, and only what starts its kernels is C."""
    own = os.environ.get("CC" if on_gpu else "CXX")
    return [own] if own else ["gcc", "clang"] if on_gpu else ["g++"]


def compiles(
    training: Training, model: nn.Module, device: torch.device, steps: int, strategy: str, special: bool
) -> bool:
    """Whether to compile the model's layers. Auto does on a GPU where the run is long, with nothing `special`: texts
    without padding, or kernels of others. Raises ConfigError if the model has to be compiled, and cannot.
    """
    wanted, on_gpu = training.compile, device.type == "cuda"
    if wanted is Use.NEVER:
        return False
    why = _obstacle(model, strategy)
    if wanted is Use.ALWAYS and why is not None:
        raise ConfigError("NotSupported", f"{FIELD}: Always is not possible: {why}", "use Auto or Never")
    pays = on_gpu and steps >= LONG and not special and compiler(on_gpu) is not None
    return why is None and (wanted is Use.ALWAYS or pays)


def _obstacle(model: nn.Module, strategy: str) -> str | None:
    from torch import nn

    if strategy != DDP:
        return f"the model is shared by {strategy}"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return "batch norms take the rows of a step together"
    return None if _blocks(model) else "the model has no layers that repeat"


def compile_layers(model: nn.Module, wanted: Use, cache_folder: str | None) -> None:
    """From now on the blocks of `model` that repeat are compiled where they are trained.

    What was compiled is kept in the run's cache, so that the next attempt has it at once. A block that cannot be
    translated ends a run that asked for it with Always; with Auto it is computed as it is.
    """
    import torch
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor
    from torch.fx.experimental import _config as shapes

    dynamo.suppress_errors = wanted is Use.AUTO
    # Its other way is a process for each core of the node, whatever the pod's quota, and each imports torch.
    inductor.compile_threads = 1
    # torch tells headers that it translates ahead apart by openssl's hash of them, and fails where there is no openssl.
    inductor.cpp_cache_precompile_headers = shutil.which("openssl") is not None
    if cache_folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(cache_folder, "compiled"))
    # A length that happens to equal the number of rows, or of heads, is still another one in the next batch.
    shapes.use_duck_shape = False
    for block in _blocks(model):
        plain = block.forward
        fast = torch.compile(plain, dynamic=True)
        block.forward = _where_trained(block, plain, fast)


def _where_trained(block: nn.Module, plain: Any, fast: Any) -> Any:
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (fast if block.training and torch.is_grad_enabled() else plain)(*args, **kwargs)

    return forward


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The layers that stand in a list with others of their class, and in no such layer themselves."""
    from torch import nn

    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside and len({type(own) for own in module}) == 1:
            found |= {f"{name}.{number}": own for number, own in enumerate(module) if _multiplies(own)}
    return list(found.values())


def _multiplies(block: nn.Module) -> bool:
    """Whether it has matrices, as a layer of a transformer has."""
    return any(parameter.dim() > 1 for parameter in block.parameters()) and any(block.children())
