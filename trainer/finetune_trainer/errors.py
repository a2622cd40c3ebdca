"""What can go wrong, drawn as a tree: the type says the exit code, and with it whether a retry can help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from finetune_api.progress import MAX_MESSAGE, ExitCode, Failure, FailureClass


class RunError(Exception):
    """An end that we can explain: `reason` in one word, what was wrong, and what would work."""

    exit_code: ClassVar[ExitCode]
    failure_class: ClassVar[FailureClass]

    def __init__(self, reason: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint

    def failure(self, rank: int | None = None) -> Failure:
        """This error in the words of a status."""
        return Failure(
            class_=self.failure_class,
            reason=self.reason,
            message=self.message[:MAX_MESSAGE],
            hint=self.hint[:MAX_MESSAGE] if self.hint else None,
            rank=rank,
            exit_code=self.exit_code,
        )


class ConfigError(RunError):
    """The manifest asks for what cannot be done."""

    exit_code = ExitCode.CONFIG_ERROR
    failure_class = FailureClass.CONFIG_ERROR


class DataError(RunError):
    """The rows are not what the task needs."""

    exit_code = ExitCode.DATA_ERROR
    failure_class = FailureClass.DATA_ERROR


class Unavailable(RunError):
    """A hub, a store or a peer could not be reached; a later attempt may succeed."""

    exit_code = ExitCode.UNAVAILABLE
    failure_class = FailureClass.UNAVAILABLE


class AuthError(RunError):
    """A hub or a store does not know us, or does not let us in; only a person can change that."""

    exit_code = ExitCode.AUTH_ERROR
    failure_class = FailureClass.AUTH_ERROR


class StorageFull(RunError):
    """A volume, or our share of it, holds no more; only a person can change that."""

    exit_code = ExitCode.STORAGE_FULL
    failure_class = FailureClass.STORAGE_FULL


class Preempted(RunError):
    """Asked to stop; the next attempt goes on from the newest checkpoint."""

    exit_code = ExitCode.PREEMPTED
    failure_class = FailureClass.PREEMPTED


class EvaluationGateFailed(RunError):
    """The run is done and its model is kept, but it did not reach what the manifest asks of it."""

    exit_code = ExitCode.EVALUATION_GATE_FAILED
    failure_class = FailureClass.EVALUATION_GATE_FAILED


class OutOfGpuMemory(RunError):
    """The device's memory does not hold a step."""

    exit_code = ExitCode.OUT_OF_MEMORY
    failure_class = FailureClass.OUT_OF_MEMORY_GPU


class OutOfHostMemory(RunError):
    """The container's memory does not hold the run."""

    exit_code = ExitCode.KILLED
    failure_class = FailureClass.OUT_OF_MEMORY_HOST


class CollectiveTimeout(RunError):
    """A process did not answer its peers in time."""

    exit_code = ExitCode.CODE_ERROR
    failure_class = FailureClass.COLLECTIVE_TIMEOUT


class Hang(RunError):
    """No process of this pod showed a sign of work for as long as the manifest allows."""

    exit_code = ExitCode.CODE_ERROR
    failure_class = FailureClass.HANG


class CodeError(RunError):
    """A fault of the program."""

    exit_code = ExitCode.CODE_ERROR
    failure_class = FailureClass.CODE_ERROR


def nearest(name: str, names: Iterable[str], label: str) -> str:
    """A hint: the name that was probably meant, then all there are, at most twenty."""
    known = sorted(names)
    listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    matches = difflib.get_close_matches(name.lower(), {item.lower(): item for item in known}, n=1, cutoff=0.6)
    meant = next((item for item in known if matches and item.lower() == matches[0]), None)
    everything = f"{label}: {listed or 'none'}"
    return f"did you mean {meant}? {everything}" if meant else everything
