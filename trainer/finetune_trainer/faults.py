"""What an exception in a rank means: which class it has, and what would help."""

from __future__ import annotations

import re
import traceback

import torch
from torch import distributed

from finetune_trainer.errors import (
    AuthError,
    CodeError,
    CollectiveTimeout,
    ConfigError,
    OutOfGpuMemory,
    OutOfHostMemory,
    RunError,
    Unavailable,
)
from finetune_trainer.storage import is_full, storage_full

SMALLER = (
    "lower spec.training.microBatchSize, set spec.training.gradientCheckpointing: Always, use spec.method.type: lora, "
    "or ask for more"
)
GPU_WORDS = re.compile(r"CUDA (error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation")
HOST_WORDS = re.compile(r"DefaultCPUAllocator|std::bad_alloc|Cannot allocate memory|unable to mmap")
"""How libraries say that memory ran out, who have no class of their own for it."""
PEER_WORDS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket closed|remote process exited|peer|recv.*error", re.IGNORECASE
)
TIMEOUT_WORDS = re.compile(r"timed? ?out|timeout", re.IGNORECASE)


def explain(error: BaseException) -> RunError:
    """`error` as one of ours."""
    if isinstance(error, RunError):
        return error
    if isinstance(error, torch.OutOfMemoryError) or _says(error, GPU_WORDS):
        hint = f"{SMALLER} spec.resources.gpuResource with more memory"
        return OutOfGpuMemory("OutOfMemoryGPU", _first_line(error), hint)
    if isinstance(error, MemoryError) or _says(error, HOST_WORDS):
        return OutOfHostMemory("OutOfMemoryHost", _first_line(error), f"{SMALLER} spec.resources.memory")
    if is_full(error):
        return storage_full(error, "the run's files")
    if _status(error) in (401, 403):
        hint = "see that the token or the keys in secretRef are valid, and allowed to read what the manifest names"
        return AuthError("NotAllowed", _first_line(error), hint)
    if _is_collective(error):
        return _collective(error)
    if isinstance(error, torch.cuda.DeferredCudaCallError | NotImplementedError):
        return ConfigError(type(error).__name__, _first_line(error))
    return CodeError(type(error).__name__, f"{_first_line(error)} ({_place(error)})", "its traceback is in the log")


def _says(error: BaseException, words: re.Pattern[str]) -> bool:
    return isinstance(error, RuntimeError | OSError) and bool(words.search(str(error)))


def _is_collective(error: BaseException) -> bool:
    """Whether it came out of a collective operation. gloo's errors are plain RuntimeErrors that name its source."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(r"gloo|nccl|ProcessGroup", str(error), re.IGNORECASE))


def _collective(error: BaseException) -> RunError:
    text = _first_line(error)
    if TIMEOUT_WORDS.search(text) and not PEER_WORDS.search(text):
        message = f"a process did not answer its peers: {text}"
        hint = "see the log of the rank that did not answer, and the network between the nodes"
        return CollectiveTimeout("CollectiveTimeout", message, hint)
    return Unavailable("PeerLost", f"another process of the run vanished: {text}", "see how the other pods ended")


def _status(error: BaseException) -> int | None:
    """Status of the HTTP answer that the error is about, as httpx, requests and the hub's client tell it."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "finetune_trainer" in frame.filename] or list(frames)
    return f"{own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}" if own else "no traceback"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
