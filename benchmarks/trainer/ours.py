"""Our side: the supervisor and the rank as a pod starts them, with a look at the rank's clock.

`python -m benchmarks.trainer.ours CONFIG RESULT` is the supervisor. It starts this module again as the rank, which is
the rank's own program with one sink more: what the reporter tells, at the moment when a step ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.trainer.stopwatch import Stopwatch

ENV_RESULT, ENV_PROFILE = "BENCHMARK_RESULT", "BENCHMARK_PROFILE"
RANK = "rank"


def main() -> int:
    from finetune_trainer import supervisor

    config, result, *profile = sys.argv[1:]
    os.environ[ENV_RESULT] = result
    if profile:
        os.environ[ENV_PROFILE] = profile[0]
    return supervisor.main([config], os.environ, start_rank)


def start_rank(environment: Mapping[str, str]) -> int:
    """As `gang.spawn`, which starts `finetune_trainer.rank`."""
    command = [sys.executable, "-m", "benchmarks.trainer.ours", RANK]
    return os.posix_spawn(sys.executable, command, environment, setpgroup=0)


class Clock:
    """The sink: starts with training, counts steps, and stops with the last of them, before its weights are saved."""

    def __init__(self, watch: Stopwatch, result: Path, profile: str | None) -> None:
        self.watch, self.result = watch, result
        self._profiler = None if profile is None else Profiler(Path(profile))

    def update(self, snapshot: Any) -> None:
        from benchmarks.trainer import devices  # takes seconds in the supervisor, which has no torch

        watch = self.watch
        if not watch.started:
            if snapshot.activity == "Training":
                watch.start()
            return
        if snapshot.step > watch.steps:
            watch.step(devices.wait if snapshot.step == snapshot.total_steps else None)
            watch.rows, watch.tokens = snapshot.samples, snapshot.tokens
            watch.data_wait_seconds = snapshot.data_wait_seconds
            if self._profiler is not None:
                self._profiler.step(watch.steps)
        if snapshot.loss_step is not None and (not watch.losses or watch.losses[-1][0] < snapshot.loss_step):
            watch.losses.append((snapshot.loss_step, snapshot.loss))
            if snapshot.loss_step == snapshot.total_steps:
                watch.stop(devices.peak_mib())
                watch.write(self.result)

    def close(self) -> None:
        """Everything was written when the last step ended."""


class Profiler:
    """Steps 3 to 7 in torch's profiler, written as a table of the operators that took longest."""

    FIRST, LAST, LINES = 2, 7, 30

    def __init__(self, path: Path) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._path = path
        self._profile = profile(activities=[ProfilerActivity.CPU], record_shapes=False)

    def step(self, done: int) -> None:
        if done == self.FIRST:
            self._profile.start()
        if done == self.LAST:
            self._profile.stop()
            found = self._profile.key_averages()
            table = found.table(sort_by="self_cpu_time_total", row_limit=self.LINES, max_name_column_width=50)
            self._path.write_text(table, encoding="utf-8")


def _wrap(module: ModuleType, name: str, wrapper: Callable[[Any], Any]) -> None:
    names = vars(module)
    names[name] = wrapper(names[name])


def rank() -> int:
    """`finetune_trainer.rank` with the clock among its reporter's sinks.

    The clock starts earlier where a frozen model's features are computed once: they take the place of its steps.
    """
    from finetune_api.method import MethodType
    from finetune_api.run import RunConfig
    from finetune_trainer import rank as program
    from finetune_trainer import worker
    from finetune_trainer.training import build
    from finetune_trainer.training.run import Run

    watch = Stopwatch()

    def timed(run: Run, train: Callable[[Run], None]) -> None:
        run.reporter.sinks.append(Clock(watch, Path(os.environ[ENV_RESULT]), os.environ.get(ENV_PROFILE)))
        train(run)

    def started(keep_features: Callable[..., Any], config: RunConfig, *about: Any) -> Any:
        if config.method.type is MethodType.FREEZE:
            watch.start()
        return keep_features(config, *about)

    _wrap(worker, "train", lambda train: lambda run: timed(run, train))
    _wrap(build, "keep_features", lambda keep: lambda *about: started(keep, *about))
    return program.main()


if __name__ == "__main__":
    if sys.argv[1:] == [RANK]:
        code = rank()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(main())
