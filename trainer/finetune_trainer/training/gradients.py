"""The gradient of one optimizer step: that of the loss summed over the rows of all processes.

Most losses are sums over rows, so every micro-batch has its own backward. A loss that compares all rows of the step
needs two passes (GradCache, Gao et al. 2021): first every row's embedding without a graph, and from all of them the
loss and its gradient by each embedding; then each micro-batch again, with that gradient carried on into the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from finetune_trainer import heartbeat
from finetune_trainer.tasks.base import Batch
from finetune_trainer.training.aiming import outputs_of
from finetune_trainer.training.feeding import MicroBatch
from finetune_trainer.training.run import Run
from finetune_trainer.training.sharded import gradients_stay, is_sharded, rounds, together
from finetune_trainer.training.state import seed_everything

Embeddings = tuple[torch.Tensor, ...]


Surrogate = Callable[[MicroBatch], torch.Tensor]
"""Forward of a micro-batch to a value whose gradient is what the micro-batch adds to the step's."""


def accumulate(run: Run, parts: Sequence[MicroBatch]) -> None:
    """Sum up this process's micro-batches, and with the last of them share the gradients with all processes."""
    run.norms.begin_step()
    forward = _contrasted(run, parts) if run.task.whole_batch else _summed(run)
    last = rounds(run.model, len(parts), run.world) - 1
    for number in range(last + 1):
        with _adding_up(run, number == last), parts[number].drawing() if number < len(parts) else nullcontext():
            value = forward(parts[number]) if number < len(parts) else _nothing(run)
            with run.world.with_peers() if number == last else nullcontext():
                run.accelerator.backward(run.scaler.scaled(value))
    run.norms.end_step(run.world)


@contextmanager
def _adding_up(run: Run, last: bool) -> Iterator[None]:
    """A forward and a backward; all processes sum up their gradients in that of the `last` micro-batch.

    What is sharded waits for its peers in every layer, and sums up each time where gradients of whole weights do not
    fit.
    """
    if not is_sharded(run.model):
        with nullcontext() if last else run.accelerator.no_sync(run.replica):
            yield
        return
    stays = run.choices.adds_up_whole and not last
    with together(run.model, run.world), gradients_stay(run.model) if stays else nullcontext():
        yield


def _nothing(run: Run) -> torch.Tensor:
    """Forward to zero: a process without rows still has to answer when gradients are summed, or weights gathered.

    In evaluation mode, so that one row is enough for batch norms, and their averages stay as they are.
    """
    batch = run.task.collate([run.train.drawn(0, seed=0)]).to(run.world.device)
    run.replica.eval()
    outputs = outputs_of(run.replica, batch)
    values = run.task.embed(outputs) if run.task.whole_batch else (run.task.loss(outputs, batch),)
    nothing = sum((value.sum() for value in values), torch.zeros((), device=run.world.device)) * 0.0
    run.replica.train()
    return nothing + _dot(run.task.shared_parameters(run.model), None)


def _summed(run: Run) -> Surrogate:
    def forward(part: MicroBatch) -> torch.Tensor:
        batch = part.batch.to(run.world.device)
        loss = run.task.loss(_outputs(run, run.replica, part, batch), batch)
        run.loss += loss.detach()
        return loss

    return forward


def _contrasted(run: Run, parts: Sequence[MicroBatch]) -> Surrogate:
    shared = [parameter for parameter in run.task.shared_parameters(run.model) if parameter.requires_grad]
    gradients, shared_gradients = _cached_gradients(run, _all_embeddings(run, parts), shared)

    def forward(part: MicroBatch) -> torch.Tensor:
        batch = part.batch.to(run.world.device)
        embeddings = run.task.embed(_outputs(run, run.replica, part, batch))
        # The parameters that all rows share count once, in the step's first part; elsewhere with weight zero, because
        # a process must not leave out a parameter that the others wait for.
        return _dot(embeddings, gradients[part.number]) + _dot(shared, shared_gradients if part.number == 0 else None)

    return forward


def _outputs(run: Run, model: torch.nn.Module, part: MicroBatch, batch: Batch) -> object:
    seed_everything(part.seed)
    outputs: object = outputs_of(model, batch)
    heartbeat.beat()
    run.norms.group_done(part.number)
    return outputs


@torch.no_grad()
def _all_embeddings(run: Run, parts: Sequence[MicroBatch]) -> dict[int, Embeddings]:
    """Of every micro-batch of the step, by its number, on this process's device."""
    own = {}
    for part in parts:
        outputs = _outputs(run, run.model, part, part.batch.to(run.world.device))
        own[part.number] = tuple(tensor.float().cpu() for tensor in run.task.embed(outputs))
    merged = {number: item for everyone in run.world.all_gather(own) for number, item in everyone.items()}
    return {number: tuple(tensor.to(run.world.device) for tensor in merged[number]) for number in sorted(merged)}


def _cached_gradients(
    run: Run, embeddings: dict[int, Embeddings], shared: list[torch.nn.Parameter]
) -> tuple[dict[int, Embeddings], Embeddings]:
    """The loss's gradient by the embeddings of each micro-batch, and by the shared parameters."""
    joined = [torch.cat(tensors).requires_grad_() for tensors in zip(*embeddings.values(), strict=True)]
    loss = run.task.contrast(run.model, *joined)
    if run.world.is_main:
        run.loss += loss.detach()
    found = torch.autograd.grad(loss, [*joined, *shared])
    rows = [len(item[0]) for item in embeddings.values()]
    by_part = zip(*(torch.split(gradient, rows) for gradient in found[: len(joined)]), strict=True)
    return dict(zip(embeddings, by_part, strict=True)), found[len(joined) :]


def _dot(values: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor] | None) -> torch.Tensor:
    """A number whose gradient by `values` is `gradients`, or zero without them."""
    weights = gradients if gradients is not None else [torch.zeros_like(value) for value in values]
    total = torch.zeros((), device=values[0].device) if values else torch.zeros(())
    return sum(((value * weight).sum() for value, weight in zip(values, weights, strict=True)), total)
