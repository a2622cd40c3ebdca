"""An exception in a rank becomes a class, a reason and a hint; what the network did is told from what we did wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from finetune_api.progress import ExitCode

pytestmark = pytest.mark.torch


def out_of_gpu_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def out_of_host_memory() -> None:
    import torch

    torch.empty(2**60)


def bug() -> None:
    {}["key"]


def lost_peer() -> None:
    raise RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5"
    )


def silent_peer() -> None:
    raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms")


def refused() -> None:
    import httpx
    from huggingface_hub.errors import GatedRepoError

    response = httpx.Response(403, request=httpx.Request("GET", "https://hub.example/model"))
    raise GatedRepoError("Access to model is restricted", response=response)


def full_volume() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/volume/metrics.jsonl")


def wrong_shape() -> None:
    import torch

    torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("fault", "code", "class_", "reason"),
    [
        pytest.param(out_of_gpu_memory, ExitCode.OUT_OF_MEMORY, "OutOfMemoryGPU", "OutOfMemoryGPU", id="GPU memory"),
        pytest.param(out_of_host_memory, ExitCode.KILLED, "OutOfMemoryHost", "OutOfMemoryHost", id="host memory"),
        pytest.param(lost_peer, ExitCode.UNAVAILABLE, "Unavailable", "PeerLost", id="peer vanished"),
        pytest.param(silent_peer, ExitCode.CODE_ERROR, "CollectiveTimeout", "CollectiveTimeout", id="peer silent"),
        pytest.param(bug, ExitCode.CODE_ERROR, "CodeError", "KeyError", id="bug"),
        pytest.param(refused, ExitCode.AUTH_ERROR, "AuthError", "NotAllowed", id="a hub that refuses us"),
        pytest.param(full_volume, ExitCode.STORAGE_FULL, "StorageFull", "StorageFull", id="full volume"),
        pytest.param(wrong_shape, ExitCode.CODE_ERROR, "CodeError", "RuntimeError", id="a RuntimeError of our own"),
    ],
)
def test_explain(fault: Callable[[], None], code: ExitCode, class_: str, reason: str) -> None:
    from finetune_trainer.faults import explain

    with pytest.raises(Exception) as caught:  # noqa: PT011
        fault()
    known = explain(caught.value)
    assert (known.exit_code, known.failure_class, known.reason) == (code, class_, reason), known.message
    assert "\n" not in known.message
