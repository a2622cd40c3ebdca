"""One factor for denominator and clipping, and gradients of rows that were looked up, come to what torch comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.training import Optimizer, Training

if TYPE_CHECKING:
    import torch
    from torch import nn

pytestmark = pytest.mark.torch
WORDS, WIDTH, PADDING = 600, 16, 0


@pytest.fixture(autouse=True)
def _large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large to a processor takes long in tests."""
    monkeypatch.setattr("finetune_trainer.training.embedding.LARGE", WORDS * WIDTH)


def a_reader(padding: int | None = PADDING) -> nn.Module:
    """A large table, whose embeddings are judged."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.ModuleDict({"table": nn.Embedding(WORDS, WIDTH, padding), "head": nn.Linear(WIDTH, 5)})


def backward(model: Any, rows: torch.Tensor) -> None:
    model["head"](model["table"](rows).tanh()).square().sum().backward()


def some_rows(number: int) -> torch.Tensor:
    """Words of a micro-batch, some more than once, some of them padding."""
    import torch

    rows = torch.randint(1, WORDS, (8, 16), generator=torch.Generator().manual_seed(number))
    rows[:, 8:12], rows[:, 12:] = rows[:1, :4], PADDING
    return rows


def in_the_open(model: nn.Module, optimizer: torch.optim.Optimizer, factor: float, most: float) -> torch.Tensor:
    """A step in torch's own words: scale, clip, step."""
    import torch

    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def at_once(
    model: nn.Module, optimizer: torch.optim.Optimizer, factor: float, most: float, tables: Any = ()
) -> torch.Tensor:
    """The same step as the trainer takes it."""
    from finetune_trainer.training.updating import clipping_factor, scale_gradients, total_norm

    parameters = list(model.parameters())
    norm = total_norm(parameters, tables) * factor
    scale_gradients(optimizer, parameters, tables, factor * clipping_factor(norm, most))
    optimizer.step()
    optimizer.zero_grad()
    for table in tables:
        table.clear()
    return norm


@pytest.mark.parametrize("most", [pytest.param(1e-3, id="clipped"), pytest.param(1e9, id="not clipped")])
@pytest.mark.parametrize("kind", [kind.value for kind in Optimizer])
def test_one_factor_does_what_scaling_and_clipping_do(kind: str, most: float) -> None:
    """With every optimizer, within float error, and the norm is that before clipping."""
    from finetune_trainer.training.optimizer import build_optimizer

    training = Training(optimizer=Optimizer(kind), learning_rate=1e-3)
    models, norms = [a_reader(), a_reader()], []
    for model, step in zip(models, (in_the_open, at_once), strict=True):
        optimizer = build_optimizer(model, training)
        for number in range(4):
            backward(model, some_rows(number))
            norms.append(step(model, optimizer, 0.03, most).item())
    assert norms[4:] == pytest.approx(norms[:4], rel=1e-6)
    # Lion takes the sign of a mean, and 8 bits round: there a last bit may make a step, or a notch of one.
    share = {"lion": 0.999, "adamw_8bit": 0.999}.get(kind, 1.0)
    for theirs, ours in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (theirs - ours).abs().quantile(share) <= 2.5e-7


@pytest.mark.parametrize("padding", [pytest.param(PADDING, id="padding"), pytest.param(None, id="no padding")])
def test_rows_that_are_looked_up_have_torchs_gradient(padding: int | None) -> None:
    """To the last bit, in each of several steps of several micro-batches, and always in the same matrix."""
    import torch

    from finetune_trainer.training.embedding import tables_of

    plain, own = a_reader(padding), a_reader(padding)
    (table,) = tables_of(own)
    matrices = set()
    for step in range(3):
        for number in range(3):
            for model in (plain, own):
                backward(model, some_rows(10 * step + number))
        found = [[parameter.grad for parameter in model.parameters()] for model in (plain, own)]
        assert all(map(torch.equal, *found))  # type: ignore[arg-type]
        matrices.add(found[1][0].data_ptr())  # type: ignore[union-attr]
        for model in (plain, own):
            model.zero_grad()
        table.clear()
    assert len(matrices) == 1


def test_a_weight_that_is_read_in_another_way_keeps_that_gradient() -> None:
    """All rows have one then; the next step begins with zeros all the same."""
    import torch

    from finetune_trainer.training.embedding import tables_of

    plain, own = a_reader(), a_reader()
    (table,) = tables_of(own)
    for step in range(2):
        for model in (plain, own):
            backward(model, some_rows(step))
            model["table"].weight.square().sum().backward()  # type: ignore[index,operator,union-attr]
        torch.testing.assert_close(table.weight.grad, plain["table"].weight.grad)  # type: ignore[index]
        for model in (plain, own):
            model.zero_grad()
        table.clear()


def test_a_gradient_that_was_dropped_leaves_no_trace() -> None:
    """As gradual unfreezing does: the next step begins with zeros."""
    import torch

    from finetune_trainer.training.embedding import tables_of

    plain, own = a_reader(), a_reader()
    (table,) = tables_of(own)
    backward(own, some_rows(1))
    table.weight.grad = None
    table.clear()
    for model in (plain, own):
        model.zero_grad()
        backward(model, some_rows(2))
    assert torch.equal(plain["table"].weight.grad, own["table"].weight.grad)  # type: ignore[index]


def test_steps_of_a_large_table_are_those_of_torch() -> None:
    """Clipped, with AdamW, over several steps: rows that do not occur move by their means and decay all the same."""
    import torch

    from finetune_trainer.training.embedding import tables_of
    from finetune_trainer.training.optimizer import build_optimizer

    plain, own = a_reader(), a_reader()
    tables = tables_of(own)
    training = Training(learning_rate=1e-3, weight_decay=0.1)
    steps: list[tuple[nn.Module, Callable[[torch.optim.Optimizer], torch.Tensor]]] = [
        (plain, lambda optimizer: in_the_open(plain, optimizer, 0.1, 0.5)),
        (own, lambda optimizer: at_once(own, optimizer, 0.1, 0.5, tables)),
    ]
    for model, step in steps:
        optimizer = build_optimizer(model, training)
        for number in range(4):
            backward(model, some_rows(number))
            step(optimizer)
    for theirs, ours in zip(plain.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2.5e-7)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"max_norm": 1.0}, id="rows of a largest norm"),
        pytest.param({"scale_grad_by_freq": True}, id="scaled by how often a word occurs"),
        pytest.param({"sparse": True}, id="sparse"),
        pytest.param({"num_embeddings": WORDS - 1}, id="small"),
        pytest.param({}, id="words that are said by the same weight"),
    ],
)
def test_other_embeddings_stay_as_they_are(change: dict[str, Any]) -> None:
    from torch import nn

    from finetune_trainer.training.embedding import tables_of

    module = nn.Embedding(**({"num_embeddings": WORDS, "embedding_dim": WIDTH} | change))
    says = nn.Linear(WIDTH, module.num_embeddings, bias=False)
    assert len(tables_of(nn.Sequential(module, says))) == (not change)
    if not change:
        says.weight = module.weight
        assert tables_of(nn.Sequential(module, says)) == []
