"""The parts together, before a fake API server: events wake the right jobs, errors come again, a stuck queue shows."""

from datetime import UTC, datetime

import kopf
import pytest
from prometheus_client import CollectorRegistry

from finetune_api.status import Status
from finetune_operator.shell import errors, handlers
from finetune_operator.shell.cluster import BATCH_JOB, JOB, POD, RUNTIME, WORKLOAD, Manifest
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.operator import Operator
from finetune_operator.shell.settings import Settings
from finetune_operator.shell.store import Key
from finetune_operator.shell.tls import issue
from support.builders import NOW, a_job, a_pod
from support.fakes import FakeCluster

SETTINGS = Settings.from_env({})
KEY = Key("team-a", "reviews")


@pytest.fixture
def operator() -> Operator:
    return Operator(SETTINGS, FakeCluster(clock=lambda: NOW), Metrics(CollectorRegistry()))


def stored(body: Manifest, version: int = 1) -> Manifest:
    return {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}


def runtime(version: int = 1) -> Manifest:
    return stored({"metadata": {"name": "default", "namespace": "finetune", "uid": "r"}, "spec": {}}, version)


async def due(operator: Operator) -> set[str]:
    found = set()
    while len(operator.queue):
        key = await operator.queue.get()
        found.add(str(key))
        await operator.queue.done(key)
    return found


async def test_a_childs_event_wakes_its_job_and_only_news_do(operator: Operator) -> None:
    await operator.on_event(POD, "ADDED", stored(a_pod().manifest))
    assert await due(operator) == {"team-a/reviews"}
    await operator.on_event(POD, "MODIFIED", stored(a_pod().manifest, 2))
    assert await due(operator) == set()
    await operator.on_event(POD, "DELETED", stored(a_pod().manifest, 3))
    assert await due(operator) == {"team-a/reviews"}


async def test_a_runtimes_event_wakes_the_jobs_that_have_not_started(operator: Operator) -> None:
    await operator.on_event(JOB, None, stored(a_job("waiting", uid="u1").manifest))
    await operator.on_event(JOB, None, stored(a_job("started", uid="u2").with_status(Status(attempt=1)).manifest))
    await due(operator)
    await operator.on_event(RUNTIME, "ADDED", runtime())
    assert await due(operator) == {"team-a/waiting"}


async def test_the_start_lists_everything_and_looks_at_every_job(operator: Operator) -> None:
    assert isinstance(operator.cluster, FakeCluster)
    operator.cluster.put(JOB, a_job().manifest)
    await operator.resync(lag=0)
    assert operator.cluster.reads == ["list finetuneruntimes", "list jobs", "list pods", "list finetunejobs"]
    assert await due(operator) == {"team-a/reviews"}


@pytest.mark.parametrize(
    ("error", "result"),
    [
        pytest.param(errors.Conflict("x"), "conflict", id="conflict"),
        pytest.param(errors.Unreachable("x", retry_after=3.0), "unreachable", id="unreachable"),
        pytest.param(ValueError("x"), "error", id="a fault of ours"),
    ],
)
async def test_a_failed_pass_comes_again(operator: Operator, error: Exception, result: str) -> None:
    reconciler = operator.reconciler(issue(frozenset({"host"}), datetime.now(UTC)))

    async def fail(_: Key) -> None:
        raise error

    reconciler.reconcile = fail  # type: ignore[method-assign]
    await operator.queue.add(KEY)
    key = await operator.queue.get()
    assert await operator.work_on(reconciler, key) == result
    assert KEY in operator.queue


async def test_a_stuck_queue_is_trouble(operator: Operator) -> None:
    assert operator.trouble() is None
    await operator.queue.add(KEY, after=-200)
    assert "waiting for 200 s" in str(operator.trouble())


async def test_the_probe_fails_with_the_reason() -> None:
    assert await handlers.probe(lambda: None)() == "ok"
    with pytest.raises(kopf.PermanentError, match="stuck"):
        await handlers.probe(lambda: "stuck")()


def test_only_children_of_ours_are_watched_among_jobs_and_pods() -> None:
    selectors = handlers.kopf_settings().watching.label_selectors
    resources = {
        kind.plural: kopf.Resource(group, version, kind.plural, kind=None)
        for kind, (group, version, _) in handlers.WATCHES.items()
    }
    found = {plural: selectors.collect(resource) for plural, resource in resources.items()}
    managed = ["app.kubernetes.io/managed-by=finetune-operator"]
    others = {"finetunejobs": [], "finetuneruntimes": [], WORKLOAD.plural: []}
    assert found == {**others, BATCH_JOB.plural: managed, POD.plural: managed}
