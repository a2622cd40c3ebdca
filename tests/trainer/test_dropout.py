"""Dropout that draws many values at once drops as many as torch's, and goes by torch's generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
    from torch import nn

pytestmark = pytest.mark.torch


def a_dropout(probability: float) -> nn.Module:
    from torch import nn

    from finetune_trainer.training.dropout import draw_faster

    model = nn.Sequential(nn.Dropout(probability))
    draw_faster(model)
    return model


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.003, 0.99])
def test_as_many_values_are_dropped_and_the_mean_stays(probability: float) -> None:
    """Within five standard deviations; what is kept has exactly the inverse of the probability with which it is."""
    import torch

    torch.manual_seed(1)
    count = 999_999
    values = a_dropout(probability)(torch.ones(3, count // 3))
    notch = round(probability * 65536)
    dropped, expected = (values == 0).double().mean().item(), notch / 65536
    assert abs(dropped - expected) <= 5 * (expected * (1 - expected) / count) ** 0.5
    assert values.unique().tolist() == pytest.approx([0.0, 65536 / (65536 - notch)], rel=1e-7)


def test_neighbours_are_dropped_independently() -> None:
    """Four values share a draw; how often two of them are dropped together tells nothing of that."""
    import torch

    torch.manual_seed(2)
    dropped = (a_dropout(0.5)(torch.ones(400_000)) == 0).reshape(-1, 4).double()
    together = torch.corrcoef(dropped.T) - torch.eye(4)
    assert together.abs().max() < 5 / 100_000**0.5


def test_the_seed_says_what_is_dropped() -> None:
    """Each call draws anew, the same seed the same; the gradient passes where the value did."""
    import torch

    dropout, values = a_dropout(0.3), torch.randn(50, 7, requires_grad=True)

    def drawn(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [dropout(values), dropout(values)]

    (first, second), again, other = drawn(5), drawn(5), drawn(6)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, other[0])
    (gradient,) = torch.autograd.grad(first.sum(), values)
    assert torch.equal(gradient == 0, first == 0)


def test_activations_that_are_computed_again_are_dropped_again() -> None:
    import torch
    from torch.utils.checkpoint import checkpoint

    dropout, values = a_dropout(0.3), torch.randn(50, 7, requires_grad=True)

    def gradient(again: bool) -> torch.Tensor:
        torch.manual_seed(0)
        squared = checkpoint(lambda it: dropout(it).square(), values, use_reentrant=False) if again else None
        squared = dropout(values).square() if squared is None else squared
        found: torch.Tensor = torch.autograd.grad(squared.sum(), values)[0]
        return found

    assert torch.equal(gradient(again=True), gradient(again=False))


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    import torch

    values, before = torch.randn(5), torch.get_rng_state()
    assert torch.equal(a_dropout(0.3).eval()(values), values)
    assert torch.equal(a_dropout(0.0)(values), values)
    assert torch.equal(torch.get_rng_state(), before)
