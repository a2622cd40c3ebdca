"""MLflow: a tracking server, told through its own client."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.report.snapshot import Ending
from finetune_trainer.report.trackers.adapter import Point, Tracked, flat

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

DEFAULT_EXPERIMENT = "finetune"
ID_TAG = "finetune.id"
NOT_IN_A_NAME = re.compile(r"[^\w.\- :/]")
MOST_PARAMETERS, MOST_METRICS = 100, 1000
"""That the server takes in one request."""
STATUS = {Ending.DONE: "FINISHED", Ending.STOPPED: "KILLED"}
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""We try again ourselves, and later; what the user set stays."""


class MLflow:
    """One run of the server, found again by a tag. It forgets no point, so those that it has are not sent again."""

    _client: MlflowClient

    def __init__(self, uri: str, experiment: str | None) -> None:
        self.uri = uri
        self.experiment = experiment or DEFAULT_EXPERIMENT
        self._run = ""
        self._told: dict[str, int] = {}

    def open(self, run: Tracked) -> bool:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            self._told = {name: self._last_step(name) for name in found[0].data.metrics}
            self._send_parameters(run, found[0].data.params)
        else:
            tags = {f"finetune.{name}": value for name, value in run.tags.items()} | {ID_TAG: run.id}
            self._run = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            self._told = {}
            self._send_parameters(run, known=())
        return False

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        return str(found.experiment_id if found else self._client.create_experiment(self.experiment))

    def _last_step(self, metric: str) -> int:
        return max(point.step for point in self._client.get_metric_history(self._run, metric))

    def _send_parameters(self, run: Tracked, known: Container[str]) -> None:
        """The server takes no other value for one that it knows."""
        from mlflow.entities import Param

        told = ((_name(name), value) for name, value in flat(run.parameters))
        parameters = [Param(name, value) for name, value in told if name not in known]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + MOST_PARAMETERS])

    def log(self, points: Sequence[Point]) -> None:
        metrics = list(self._news(points))
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + MOST_METRICS])

    def _news(self, points: Sequence[Point]) -> Iterator[Metric]:
        from mlflow.entities import Metric

        for point in points:
            for name, value in ((_name(name), value) for name, value in point.values.items()):
                if point.step > self._told.get(name, -1):
                    self._told[name] = point.step
                    yield Metric(name, value, int(point.time * 1000), point.step)

    def close(self, ending: Ending, artifacts: Sequence[Path]) -> None:
        for path in artifacts:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run, STATUS.get(ending, "FAILED"))


def _name(name: str) -> str:
    """`recall@1` as the server takes it: `recall_1`."""
    return NOT_IN_A_NAME.sub("_", name)
