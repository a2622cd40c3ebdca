"""How many bytes each optimizer keeps of a trained weight: pure. A test compares it with the optimizers themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from finetune_api.training import Optimizer

FLOAT = 4
SMALL = 4096
"""bitsandbytes keeps means of fewer values in 32 bits."""
BLOCK = 256
"""Values that share a scale in bitsandbytes' 8 bits."""

Shape = Sequence[int]


def _adamw(shape: Shape) -> int:
    return 2 * FLOAT * math.prod(shape)


def _adamw_8bit(shape: Shape) -> int:
    count = math.prod(shape)
    return _adamw(shape) if count < SMALL else 2 * (count + FLOAT * math.ceil(count / BLOCK))


def _adafactor(shape: Shape) -> int:
    """Of a matrix its rows and its columns; of more dimensions, those of every matrix in the last two."""
    if len(shape) < 2:
        return FLOAT * math.prod(shape)
    return FLOAT * (math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1])


def _one_mean(shape: Shape) -> int:
    return FLOAT * math.prod(shape)


STATE: Mapping[Optimizer, Callable[[Shape], int]] = {
    Optimizer.ADAMW: _adamw,
    Optimizer.ADAMW_8BIT: _adamw_8bit,
    Optimizer.ADAFACTOR: _adafactor,
    Optimizer.SGD: _one_mean,
    Optimizer.LION: _one_mean,
}


def state_bytes(optimizer: Optimizer, shape: Shape) -> int:
    """Bytes that `optimizer` keeps of a weight of this shape from its first step on."""
    return STATE[optimizer](shape)
