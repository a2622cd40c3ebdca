"""Rank 0's /metrics page: the latest snapshot, read at the moment of the scrape."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_trainer.report.snapshot import Snapshot

log = logging.getLogger(__name__)
PREFIX = "finetune_trainer_"


class MetricsPage(Collector):
    """Serves the latest snapshot on `port`; 0 takes a free one. A port that is taken is said, and not fatal."""

    def __init__(self, port: int) -> None:
        self._latest = Snapshot()
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, registry=registry)
            log.info("metrics on port %d", self._server.server_port)
        except OSError as error:
            log.warning("no metrics page: port %d: %s", port, error.strerror)

    def update(self, snapshot: Snapshot) -> None:
        self._latest = snapshot

    def close(self) -> None:
        """The page stays until the process ends, so that the last values can still be scraped."""

    def collect(self) -> Iterator[Metric]:
        now = self._latest
        gauges = {
            "loss": ("Training loss, mean since the last log point.", now.loss),
            "learning_rate": ("Learning rate of the last step.", now.learning_rate),
            "grad_norm": ("Norm of the gradient before clipping.", now.grad_norm),
            "step": ("Optimizer steps done.", now.step),
            "steps_total": ("Optimizer steps in the whole run.", now.total_steps),
            "epoch": ("Passes over the training rows.", now.epoch),
            "eta_seconds": ("Estimated seconds to the end.", now.eta_seconds),
            "checkpoint_last_step": ("Step of the newest complete checkpoint.", now.checkpoint_step),
        }
        counters = {
            "samples": ("Rows trained on, over all processes.", now.samples),
            "tokens": ("Tokens trained on, over all processes.", now.tokens),
            "data_wait_seconds": ("Seconds that rank 0 waited for batches.", now.data_wait_seconds),
            "checkpoint_stall_seconds": (
                "Seconds that training stood still for checkpoints.",
                now.checkpoint_stall_seconds,
            ),
        }
        for name, (text, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(PREFIX + name, text, value=value)
        for name, (text, count) in counters.items():
            yield CounterMetricFamily(PREFIX + name, text, value=count)
