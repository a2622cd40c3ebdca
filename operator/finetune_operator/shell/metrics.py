"""What Prometheus can ask: counters that the shell feeds, and jobs by phase, counted in the store at each scrape."""

from __future__ import annotations

import platform
from collections import Counter as Tally
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_api.status import Phase
from finetune_operator.core.status import Happening, Transition
from finetune_operator.shell.cluster import JOB
from finetune_operator.shell.queue import WorkQueue
from finetune_operator.shell.store import Key, Store

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconcile_seconds = Histogram(
            "finetune_operator_reconcile_duration_seconds",
            "Time of one pass over one job, by its result: ok, conflict, unreachable or error.",
            ["result"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._requests = Counter(
            "finetune_operator_api_requests",
            "Requests to the API server; code 0 is no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._restarts = Counter(
            "finetune_job_restarts", "Restarts of training, by the class of the fault.", ["class"], registry=registry
        )
        self._finished = Counter(
            "finetune_job_finished", "Runs that ended, by result: Succeeded or Failed.", ["result"], registry=registry
        )
        self.repairs = Counter(
            "finetune_operator_resync_repairs",
            "Objects on which the periodic re-list and the watch did not agree.",
            ["resource"],
            registry=registry,
        )
        self.last_event = Gauge(
            "finetune_operator_watch_last_event_timestamp_seconds",
            "When the last event of a watch came.",
            ["resource"],
            registry=registry,
        )
        self.reports = Counter(
            "finetune_operator_progress_reports", "Progress reports of pods, by answer.", ["code"], registry=registry
        )
        build = Gauge(
            "finetune_operator_build_info", "1, with versions.", ["version", "kopf", "python"], registry=registry
        )
        build.labels(version("finetune-operator"), version("kopf"), platform.python_version()).set(1)

    def count_request(self, verb: str, resource: str, code: int) -> None:
        self._requests.labels(verb, resource, str(code)).inc()

    def count_transition(self, transition: Transition) -> None:
        if transition.happening is Happening.RESTARTED:
            self._restarts.labels(transition.failure_class or "Unknown").inc()
        if transition.happening in (Happening.SUCCEEDED, Happening.FAILED):
            self._finished.labels(transition.happening).inc()


class StoreCollector(Collector):
    """Gauges that are read where the truth is, so that no series outlives what it counts."""

    def __init__(self, store: Store, queue: WorkQueue[Key]) -> None:
        self._store = store
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("finetune_jobs", "Jobs by phase.", labels=["namespace", "phase"])
        for (namespace, phase), count in self._phases().items():
            jobs.add_metric([namespace, phase], count)
        yield jobs
        depth = "finetune_operator_workqueue_depth"
        yield GaugeMetricFamily(depth, "Jobs that are waiting to be looked at.", value=len(self._queue))
        age = "finetune_operator_workqueue_oldest_age_seconds"
        yield GaugeMetricFamily(age, "How long the first of them has been waiting.", value=self._queue.oldest_age())

    def _phases(self) -> Tally[tuple[str, str]]:
        bodies = list(self._store.all(JOB))
        return Tally((body["metadata"]["namespace"], body["status"].get("phase", Phase.PENDING)) for body in bodies)
