"""Modules that stay as they are: no gradient, and the mode of evaluation also while the rest is trained."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

MARK = "_finetune_frozen"


def hold(model: nn.Module) -> None:
    """Keep every module of `model` whose weights are all frozen in the mode of evaluation from now on."""
    for module in _outermost(model):
        module.eval()
        for part in module.modules():
            setattr(part, MARK, True)
        # `train()` of a module calls that of its parts, so what the instance has itself goes first.
        object.__setattr__(module, "train", lambda mode=True, own=module: own)  # noqa: ARG005


def is_held(module: nn.Module) -> bool:
    return bool(getattr(module, MARK, False))


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for part in module.children():
        yield from _outermost(part)
