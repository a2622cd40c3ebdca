"""What a frozen backbone says of each row, computed once and kept on disk: training then runs the head alone.

The backbone stays in the model; only while features are given does it return those instead of computing. What of its
outputs is kept is tried out: a pooled state, the state of the first token, or those of all. The micro-batches that are
computed depend on the rows alone, so a resumed run, and any number of processes, comes to the same features.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from finetune_api.method import CacheFeatures, MethodType
from finetune_api.run import RunConfig
from finetune_trainer import heartbeat
from finetune_trainer.data.examples import Changed
from finetune_trainer.data.split import Side
from finetune_trainer.handover import ENV_SCRATCH
from finetune_trainer.methods.frozen import is_held
from finetune_trainer.tasks.base import Batch, Example, TaskKind
from finetune_trainer.training.draws import current
from finetune_trainer.training.evaluate import Encoded, evaluation_batches
from finetune_trainer.training.padding_free.texts import texts_of
from finetune_trainer.training.sharded import is_sharded
from finetune_trainer.training.world import World

log = logging.getLogger(__name__)
KEY = "features"
"""Of an example: where its features stand. Of a model's inputs: what their names begin with."""
ANSWERS = ("logits", "start_logits", "end_logits")
TRIED = 2
"""Rows that what is kept is tried out with."""
MASK = "attention_mask"
Values = Mapping[str, torch.Tensor]


class Part(IntEnum):
    """How much of one of the backbone's outputs is kept; the least first."""

    NOTHING = 0
    FIRST = 1
    ALL = 2


class Backbone:
    """The frozen part of a model, which says what it is given to say, or else computes it."""

    def __init__(self, module: nn.Module) -> None:
        self.compute: Callable[..., Any] = module.forward
        self.given: Any = None
        self.said: Any = None
        self.calls = 0
        object.__setattr__(module, "forward", self._forward)

    def _forward(self, *arguments: Any, **named: Any) -> Any:
        if self.given is not None:
            return self.given
        self.calls += 1
        self.said = self.compute(*arguments, **named)
        return self.said


@dataclass(frozen=True)
class Kept:
    """What is kept of one output: how much, its type, and whether its second dimension are the places of a row."""

    part: Part
    dtype: torch.dtype
    places: bool


@dataclass(frozen=True)
class Plan:
    """What is kept of each output, the outputs' class, and inputs that are then no longer read."""

    outputs: type
    kept: Mapping[str, Kept]
    unread: tuple[str, ...]

    def cut(self, said: Values, row: int, length: int) -> list[numpy.ndarray]:
        """What is kept of a row that has `length` places."""
        return [_cut(said[name], kept, row, length) for name, kept in self.kept.items() if kept.part]

    def joined(self, rows: Sequence[Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What is kept of some rows, padded to the longest of them."""
        names = [name for name, kept in self.kept.items() if kept.part]
        columns = zip(names, zip(*rows, strict=True), strict=True)
        return {name: _padded(values).to(self.kept[name].dtype) for name, values in columns}

    def given(self, values: Values) -> Any:
        """The backbone's outputs; of what is not kept there is a zero."""
        known = next(iter(values.values()))
        return self.outputs(
            **{
                name: values[name] if kept.part else known.new_zeros((len(known), 1, 1))
                for name, kept in self.kept.items()
            }
        )


def _cut(said: torch.Tensor, kept: Kept, row: int, length: int) -> numpy.ndarray:
    own = said[row]
    if kept.places:
        own = own[:1] if kept.part is Part.FIRST else own[:length]
    found: numpy.ndarray = own.detach().float().cpu().numpy()
    return found


def _padded(values: Sequence[torch.Tensor]) -> torch.Tensor:
    if len({len(value) for value in values if value.ndim}) <= 1:
        return torch.stack(list(values))
    return nn.utils.rnn.pad_sequence(list(values), batch_first=True)


@dataclass
class Store:
    """The features of one side's rows: `files` by the process of this node that computed them, and where in them each
    input of the model stands: file, first number, places; `first` has each row's first input, and one more.
    """

    files: Mapping[int, numpy.ndarray]
    where: numpy.ndarray
    first: numpy.ndarray
    shapes: Sequence[tuple[int | None, ...]]

    def read(self, row: int) -> list[list[torch.Tensor]]:
        """What is kept of each input that the row is."""
        return [self._input(number) for number in range(self.first[row], self.first[row + 1])]

    def heard(self, row: int) -> int:
        """The places of what the model would read of the row."""
        return int(self.where[self.first[row], 3])

    def _input(self, number: int) -> list[torch.Tensor]:
        file, begin, length, _ = (int(value) for value in self.where[number])
        found = []
        for shape in self.shapes:
            sizes = tuple(length if size is None else size for size in shape)
            end = begin + int(numpy.prod(sizes))
            found.append(torch.from_numpy(numpy.array(self.files[file][begin:end])).reshape(sizes))
            begin = end
        return found


@dataclass(frozen=True)
class Reference:
    """Where the features of an example stand."""

    store: Store
    row: int


def _with_features(examples: Sequence[Example], store: Store) -> Changed:
    """The examples, which now know where their features stand."""
    return Changed(examples, lambda place, example: {**example, KEY: Reference(store, place)})


def wanted(config: RunConfig) -> bool:
    """Whether the run's features are the same in every epoch, and may be kept."""
    method = config.method
    frozen = method.type is MethodType.FREEZE and method.freeze.backbone
    return frozen and method.freeze.cache_features is CacheFeatures.AUTO and config.dataset.augment is None


def keep_features(
    config: RunConfig, task: TaskKind, model: nn.Module, encoded: Mapping[Side, Encoded], world: World
) -> dict[Side, Encoded]:
    """The rows with their features, where the backbone says the same of them in every epoch; else as they are.

    The model is in evaluation mode, and as it will be trained: what it computes with is what is kept.
    """
    if not wanted(config) or is_sharded(model):
        return dict(encoded)
    cache = _cache(task, model, encoded[Side.TRAIN].examples)
    if cache is None:
        log.info("the features of this model cannot be kept; its frozen part is computed in every epoch")
        return dict(encoded)
    started, folder = time.monotonic(), _folder()
    kept = {side: _kept(cache, some, folder / side.value, world) for side, some in encoded.items()}
    cache.serve()
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    rows = sum(len(some.examples) for some in kept.values())
    log.info("the features of %d rows were computed once: %.1f MiB in %.1f s", rows, size, time.monotonic() - started)
    return kept


def _folder() -> Path:
    """In the scratch folder that the ranks of a node share."""
    folder = Path(os.environ.get(ENV_SCRATCH) or tempfile.mkdtemp(prefix="finetune-")) / KEY
    folder.mkdir(exist_ok=True)
    return folder


def _cache(task: TaskKind, model: nn.Module, examples: Sequence[Example]) -> Cache | None:
    base = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    if not isinstance(base, nn.Module) or base is model or not is_held(base):
        return None
    backbone = Backbone(base)
    longest = sorted(range(len(examples)), key=lambda place: -task.size(examples[place]))[:TRIED]
    plan = _tried(task, model, backbone, [examples[place] for place in longest])
    if plan is None:
        object.__delattr__(base, "forward")
        return None
    return Cache(task, model, backbone, plan)


@torch.no_grad()
def _tried(task: TaskKind, model: nn.Module, backbone: Backbone, examples: Sequence[Example]) -> Plan | None:
    """The plan that keeps least of those by which the model still answers the same; None if none does."""
    batches = [task.collate([example]).to(next(model.parameters()).device) for example in examples]
    answers, said = [], []
    for batch in batches:
        backbone.said = None
        answers.append(_answers(model(**batch.inputs)))
        said.append(_tensors(backbone.said))
    if not all(answers) or not all(said):
        return None
    outputs = type(backbone.said)
    unread = () if "input_ids" in batches[0].inputs else tuple(name for name in batches[0].inputs if name != MASK)
    for plan in _plans(outputs, said[0], unread):
        if all(
            map(_same, answers, (_answer(model, backbone, plan, *pair) for pair in zip(batches, said, strict=True)))
        ):
            return plan
    return None


def _plans(outputs: type, said: Values, unread: tuple[str, ...]) -> list[Plan]:
    """Every way to keep some of the outputs, the smallest first."""
    parts = {
        name: [Part.NOTHING, Part.FIRST, Part.ALL] if value.ndim == 3 else [Part.NOTHING, Part.ALL]
        for name, value in said.items()
    }
    found = [
        Plan(
            outputs,
            {
                name: Kept(part, said[name].dtype, said[name].ndim == 3)
                for name, part in zip(parts, chosen, strict=True)
            },
            unread,
        )
        for chosen in product(*parts.values())
        if any(chosen)
    ]
    return sorted(found, key=lambda plan: sum(_size(said[name], kept) for name, kept in plan.kept.items()))


def _size(value: torch.Tensor, kept: Kept) -> int:
    """Numbers that are kept of an output of one row; of a single place all is as little as the first."""
    whole = value.numel() + int(kept.places)
    return {Part.NOTHING: 0, Part.FIRST: value.numel() // value.shape[1], Part.ALL: whole}[kept.part]


def _answer(model: nn.Module, backbone: Backbone, plan: Plan, batch: Batch, said: Values) -> dict[str, torch.Tensor]:
    """What the model answers if nothing is known of what is not kept; nothing at all if it cannot do without."""
    values = {name: _unknown_but(value, plan.kept[name].part) for name, value in said.items()}
    inputs = {name: None if name in plan.unread else value for name, value in batch.inputs.items()}
    backbone.given = plan.outputs(**values)
    try:
        return _answers(model(**inputs))
    except (AttributeError, TypeError, ValueError):
        return {}
    finally:
        backbone.given = None


def _unknown_but(value: torch.Tensor, part: Part) -> torch.Tensor:
    if part is Part.ALL:
        return value
    unknown = torch.full_like(value, float("nan"))
    if part is Part.FIRST:
        unknown[:, 0] = value[:, 0]
    return unknown


def _answers(outputs: Any) -> dict[str, torch.Tensor]:
    return {name: outputs[name].clone() for name in ANSWERS if outputs.get(name) is not None}


def _same(one: Values, other: Values) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _tensors(outputs: Any) -> dict[str, torch.Tensor]:
    """The named tensors among the backbone's outputs; what else there may be, such as a cache, is not kept."""
    named = outputs.items() if isinstance(outputs, Mapping) else ()
    return {name: value for name, value in named if isinstance(value, torch.Tensor)}


class Cache:
    """A task whose rows have features, and the model that answers by them."""

    def __init__(self, task: TaskKind, model: nn.Module, backbone: Backbone, plan: Plan) -> None:
        self.task = task
        self.model = model
        self.backbone = backbone
        self.plan = plan

    def serve(self) -> None:
        """From now on examples that have features are put together with them, and answered by them."""
        collate = self.task.collate
        object.__setattr__(self.task, "collate", lambda examples: self._collate(collate, examples))
        for reader in filter(None, (getattr(self.task, name, None) for name in ("images", "sounds"))):
            object.__setattr__(reader, "collate", _unread(reader.collate))
        self.model.register_forward_pre_hook(self._take, with_kwargs=True)
        self.model.register_forward_hook(self._done)

    def _collate(self, collate: Callable[[Sequence[Example]], Batch], examples: Sequence[Example]) -> Batch:
        batch = collate(examples)
        if KEY not in examples[0]:
            return batch
        places: list[Reference] = [example[KEY] for example in examples]
        values = self.plan.joined([own for place in places for own in place.store.read(place.row)])
        return replace(batch, inputs=batch.inputs | {f"{KEY}.{name}": value for name, value in values.items()})

    def _take(self, module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        given = {name.removeprefix(f"{KEY}."): value for name, value in named.items() if name.startswith(f"{KEY}.")}
        if not given:
            return arguments, named
        self.backbone.given = self.plan.given(given)
        others = {name: value for name, value in named.items() if not name.startswith(f"{KEY}.")}
        _lay_out(others)
        return arguments, dict.fromkeys(self.plan.unread) | others

    def _done(self, module: nn.Module, arguments: Any, outputs: Any) -> None:  # noqa: ARG002
        self.backbone.given = None


def _lay_out(inputs: dict[str, Any]) -> None:
    """Where texts are computed without padding, dropout in the head draws by their lengths, as with a backbone."""
    if (draws := current()) is not None and (texts := texts_of(inputs)) is not None:
        draws.laid_out(texts)


def _unread(collate: Callable[..., dict[str, torch.Tensor]]) -> Callable[..., dict[str, torch.Tensor]]:
    """Images and sounds whose features are known are not opened; only how long they are is still asked for."""

    def instead(examples: Sequence[Example], *further: Any, **named: Any) -> dict[str, torch.Tensor]:
        if KEY not in examples[0]:
            return collate(examples, *further, **named)
        heard = torch.tensor([example[KEY].store.heard(example[KEY].row) for example in examples])
        if not bool(heard.any()):
            return {}
        return {MASK: (torch.arange(int(heard.max())) < heard[:, None]).int()}

    return instead


def _kept(cache: Cache, encoded: Encoded, path: Path, world: World) -> Encoded:
    """The rows of one side with their features, of which each process of a node computes a share."""
    examples = encoded.examples
    if not len(examples):
        return encoded
    node = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    own = world.rank % node
    batches = evaluation_batches(cache.task, examples)[own::node]
    first = numpy.cumsum([0, *(cache.task.pieces(example) for example in examples)])
    written, shapes = _written(cache, examples, batches, first, path.with_suffix(f".{own}"), world.device)
    where = numpy.zeros((first[-1], 4), dtype=numpy.int64)
    all_shapes: list[tuple[int | None, ...]] = shapes
    for rank, (rows, found) in enumerate(world.all_gather((written, shapes))):
        if rank // node == world.rank // node and len(rows):
            where[rows[:, 0]] = numpy.column_stack([numpy.full(len(rows), rank % node), rows[:, 1:]])
            all_shapes = found
    files = {number: _mapped(path.with_suffix(f".{number}")) for number in range(node)}
    return replace(encoded, examples=_with_features(examples, Store(files, where, first, all_shapes)))


def _mapped(path: Path) -> numpy.ndarray:
    return numpy.memmap(path, numpy.float32, "r") if path.stat().st_size else numpy.zeros(0, numpy.float32)


@torch.no_grad()
def _written(
    cache: Cache,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    first: numpy.ndarray,
    path: Path,
    device: torch.device,
) -> tuple[numpy.ndarray, list[tuple[int | None, ...]]]:
    """Of each input that was computed its number, where it begins in the file, its places, and those of what was read;
    and the shapes of what is kept, None for the number of places.
    """
    plan, table, begin = cache.plan, [], 0
    shapes: list[tuple[int | None, ...]] = []
    with path.open("wb") as file:
        for indices in batches:
            batch = cache.task.collate([examples[index] for index in indices]).to(device)
            cache.model(**batch.inputs)
            heartbeat.beat()
            said = _tensors(cache.backbone.said)
            numbers = [number for index in indices for number in range(first[index], first[index + 1])]
            lengths, heard = _lengths(cache, batch, said)
            for row, number in enumerate(numbers):
                values = plan.cut(said, row, lengths[row])
                shapes = shapes or _shapes(plan, values)
                table.append((number, begin, lengths[row], heard[row]))
                begin += sum(value.size for value in values)
                file.writelines(numpy.ascontiguousarray(value).data for value in values)
    cache.backbone.said = None
    return numpy.array(table, dtype=numpy.int64).reshape(-1, 4), shapes


def _shapes(plan: Plan, values: Sequence[numpy.ndarray]) -> list[tuple[int | None, ...]]:
    kept = [kept for kept in plan.kept.values() if kept.part]
    return [
        (None, *value.shape[1:]) if one.places and one.part is Part.ALL else value.shape
        for one, value in zip(kept, values, strict=True)
    ]


def _lengths(cache: Cache, batch: Batch, said: Values) -> tuple[list[int], list[int]]:
    """Of each input its places among the backbone's outputs, and among what it read, 0 where that has no mask."""
    width = max((said[name].shape[1] for name, kept in cache.plan.kept.items() if kept.places), default=1)
    rows, mask = len(next(iter(said.values()))), batch.inputs.get(MASK)
    if mask is None:
        return [width] * rows, [0] * rows
    heard = [int(count) for count in mask.sum(1)]
    if mask.shape[1] == width:
        return heard, heard
    model: Any = cache.model
    if not hasattr(model, "_get_feature_vector_attention_mask"):
        return [width] * rows, heard
    return [int(count) for count in model._get_feature_vector_attention_mask(width, mask).sum(1)], heard
