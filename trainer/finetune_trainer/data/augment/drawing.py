"""Random numbers for libraries that draw them from torch's own generator, which other threads draw from, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWING = frozenset(
    {
        torch.bernoulli,
        torch.multinomial,
        torch.normal,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.randperm,
        torch.Tensor.bernoulli_,
        torch.Tensor.exponential_,
        torch.Tensor.normal_,
        torch.Tensor.random_,
        torch.Tensor.uniform_,
    }
)


class drawing_from(TorchFunctionMode):  # a context manager, which reads as a verb
    """In this block, and in this thread alone, torch draws the numbers that it would draw after `manual_seed(seed)`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        further = {} if function not in DRAWING else {"generator": self._generator}
        return function(*arguments, **{**further, **(named or {})})
