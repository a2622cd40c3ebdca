"""Random numbers of one example."""

from __future__ import annotations

import numpy


def generator(seed: int, purpose: str) -> numpy.random.Generator:
    """Each purpose has a stream of its own, so that turning one change on moves no other."""
    return numpy.random.Generator(numpy.random.PCG64([seed, *purpose.encode()]))
