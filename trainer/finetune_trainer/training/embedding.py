"""Gradients of large tables of embeddings, which a step touches in few rows.

autograd makes a new matrix of zeros as large as the table for each micro-batch, and adds it to the last. Here the
matrix is kept, only rows of words that occurred are added to it, and only those are scaled, measured and zeroed again.
Every row is summed as torch does it, so the gradient is the same to the last bit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

LARGE = 2**20
"""Values from which on zeros for all of them take longer than finding the rows that occur."""


class Table:
    """The gradient of one embedding: a matrix, kept from step to step, and the rows of it that are not zero."""

    def __init__(self, module: nn.Embedding) -> None:
        self.weight = module.weight
        self.padding = module.padding_idx
        self._matrix: torch.Tensor | None = None
        self._touched: list[torch.Tensor] = []
        self._full = False
        # Whoever uses the weight in another way gives it a gradient in all rows, by autograd.
        self.weight.register_post_accumulate_grad_hook(self._fill)  # type: ignore[no-untyped-call]
        object.__setattr__(module, "forward", self.look_up)

    def look_up(self, indices: torch.Tensor) -> torch.Tensor:
        """The embeddings of `indices`, as nn.Embedding gives them."""
        if not torch.is_grad_enabled():
            return nn.functional.embedding(indices, self.weight)
        found: torch.Tensor = _Lookup.apply(self.weight, indices, self)
        return found

    def add(self, indices: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take in the gradient by the embeddings of `indices`; the row of padding learns nothing."""
        indices, gradient = indices.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
        if self.padding is not None:
            kept = indices != self.padding
            indices, gradient = indices[kept], gradient[kept]
        rows, places = torch.unique(indices, return_inverse=True)
        sums = torch.ops.aten.embedding_dense_backward(gradient, places, len(rows), -1, False)
        if self.weight.grad is None:
            if self._matrix is None:
                self._matrix = torch.zeros_like(self.weight)
            self.weight.grad = self._matrix
        self.weight.grad.index_add_(0, rows, sums)
        self._touched.append(rows)

    @property
    def is_sparse(self) -> bool:
        """Whether all of the gradient is in rows that were looked up."""
        return self.weight.grad is not None and bool(self._touched) and not self._full

    def part(self) -> torch.Tensor:
        """A copy of the rows that were looked up."""
        assert self.weight.grad is not None
        return self.weight.grad[self._rows()]

    def scale(self, factor: torch.Tensor) -> None:
        """Multiply the rows that were looked up."""
        assert self.weight.grad is not None
        self.weight.grad.index_copy_(0, self._rows(), self.part() * factor)

    def clear(self) -> None:
        """Zeros again, once the step is done."""
        if self._matrix is not None and self._full:
            self._matrix.zero_()
        elif self._matrix is not None and self._touched:
            self._matrix.index_fill_(0, self._rows(), 0.0)
        self._touched, self._full = [], False

    def _rows(self) -> torch.Tensor:
        """Those touched by any micro-batch of the step, each once."""
        if len(self._touched) > 1:
            self._touched = [torch.unique(torch.cat(self._touched))]
        return self._touched[0]

    def _fill(self, weight: nn.Parameter) -> None:  # noqa: ARG002
        self._full = True


class _Lookup(torch.autograd.Function):
    """Looks rows up; their gradient goes to the table itself and not through autograd."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, indices: torch.Tensor, table: Table) -> torch.Tensor:
        ctx.table = table
        ctx.save_for_backward(indices)
        return nn.functional.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        (indices,) = ctx.saved_tensors
        ctx.table.add(indices, gradient)
        return None, None, None


def tables_of(model: nn.Module) -> list[Table]:
    """The large embeddings of `model` that are trained, from now on with gradients of their own.

    Not those whose weight has a second use, as where it also says tokens: there every row has a gradient.
    """
    uses: Counter[torch.Tensor] = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [Table(module) for module in embeddings if uses[module.weight] == 1 and _is_large(module)]


def _is_large(module: nn.Embedding) -> bool:
    """Not of a class that looks up in another way, nor with a gradient of another kind."""
    plain = type(module) is nn.Embedding and type(module.weight) is nn.Parameter
    usual = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return plain and usual and module.weight.requires_grad and module.weight.numel() >= LARGE
