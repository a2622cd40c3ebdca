"""What /metrics says: the names are public, no series outlives what it counts, none has a job's name."""

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from finetune_api.progress import FailureClass
from finetune_api.status import Phase, Status
from finetune_operator.core.status import Happening, Transition
from finetune_operator.shell.cluster import JOB
from finetune_operator.shell.metrics import Metrics, StoreCollector
from finetune_operator.shell.queue import WorkQueue
from finetune_operator.shell.store import Key, Store
from support.builders import a_job


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_jobs_are_counted_where_the_truth_is() -> None:
    store, registry = Store(), CollectorRegistry()
    queue: WorkQueue[Key] = WorkQueue(lambda: 5.0, lambda: 0.0)
    registry.register(StoreCollector(store, queue))
    running = a_job("a", uid="u1").with_status(Status(phase=Phase.RUNNING)).manifest
    store.put(JOB, running)
    store.put(JOB, a_job("b", uid="u2").manifest)
    asyncio.run(queue.add(Key("team-a", "b")))
    assert scrape(registry) == {
        'finetune_jobs{namespace="team-a",phase="Running"}': 1,
        'finetune_jobs{namespace="team-a",phase="Pending"}': 1,
        "finetune_operator_workqueue_depth": 1,
        "finetune_operator_workqueue_oldest_age_seconds": 0,
    }
    store.remove(JOB, running)
    assert 'finetune_jobs{namespace="team-a",phase="Running"}' not in scrape(registry)


def test_public_names() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.count_request("patch", "finetunejobs/status", 200)
    metrics.count_transition(Transition(Happening.SUSPENDED, ""))
    metrics.count_transition(Transition(Happening.RESTARTED, "", FailureClass.PREEMPTED))
    metrics.count_transition(Transition(Happening.FAILED, "", FailureClass.DATA_ERROR))
    metrics.reconcile_seconds.labels("ok").observe(0.004)
    metrics.repairs.labels("pods").inc()
    found = scrape(registry)
    assert found['finetune_operator_api_requests_total{code="200",resource="finetunejobs/status",verb="patch"}'] == 1
    assert found['finetune_job_restarts_total{class="Preempted"}'] == 1
    assert found['finetune_job_finished_total{result="Failed"}'] == 1
    assert found['finetune_operator_reconcile_duration_seconds_count{result="ok"}'] == 1
    assert found['finetune_operator_resync_repairs_total{resource="pods"}'] == 1
    assert any(name.startswith("finetune_operator_build_info{") for name in found)
