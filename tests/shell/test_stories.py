"""Longer stories of a job before a fake API server: restarts and what they cost, queues, downloads, other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from finetune_api.names import LABEL_ROLE, ROLE_FETCH
from finetune_api.progress import Checkpoint, FailureClass, Outcome, Progress, Provenance, Result
from finetune_api.status import Phase, Restarts, Usage
from finetune_operator.core.report import Report
from finetune_operator.shell.cluster import BATCH_JOB, CONFIG_MAP, NODE, POD, SERVICE
from finetune_operator.shell.store import Key
from support.builders import AJob, AWorkload, a_child_job, a_job, a_pod
from support.fakes import World

KEY = Key("team-a", "reviews")
FIRST, SECOND, THIRD = (f"reviews-0a1b2-r1a{attempt}" for attempt in (1, 2, 3))
MOST_WRITES = 6
TWO = a_job().with_nodes(2)
GPUS = TWO.with_spec(resources={"gpusPerNode": 4})


@pytest.fixture
def world() -> World:
    world = World()
    world.runtime(image="trainer:1")
    return world


def pods_run(world: World, attempt: int = 1, nodes: int = 2) -> None:
    world.has(*(a_pod(rank).of_attempt(attempt).born(world.now) for rank in range(nodes)))
    world.settle()


def running(world: World, job: AJob = TWO) -> World:
    world.user_applies(job)
    world.settle()
    pods_run(world)
    assert world.status().phase is Phase.RUNNING
    world.written()
    return world


def told(world: World, attempt: int, step: int, checkpoint: int | None = None) -> None:
    """Rank 0 reports, and the report is written."""
    report = Report(1, attempt, Progress(step=step), Checkpoint(step=checkpoint), {})
    world.reconciler.take_report(KEY, report)
    world.later(20)
    world.settle()


def node_is_lost(world: World) -> None:
    silent = {"type": "Ready", "status": "Unknown", "lastTransitionTime": world.now}
    world.cluster.put(NODE, {"metadata": {"name": "node-1"}, "status": {"conditions": [silent]}})
    world.has(*(a_pod(rank).not_ready() for rank in range(2)))
    world.later(130)


def program_fails(world: World) -> None:
    world.has(a_pod(0).failed(1), a_pod(1).failed(1), a_child_job().failed())


def pod_is_deleted(world: World) -> None:
    """It saves once more on its way out."""
    saved = Outcome(outcome=Result.PREEMPTED, checkpoint=Checkpoint(step=90))
    world.has(a_pod(1).failed(75).being_deleted(world.now), a_pod(0).being_deleted(), a_child_job().failed().failing())
    world.settle()
    world.has(a_pod(0).failed(75, outcome=saved), a_child_job().failed())


@pytest.mark.parametrize("fault", [program_fails, pod_is_deleted, node_is_lost])
def test_a_restart_costs_at_most_six_writes(world: World, fault: Callable[[World], None]) -> None:
    running(world)
    fault(world)
    world.settle()
    world.later(30)
    world.settle()
    assert world.status().phase is Phase.RESTARTING
    pods_run(world, attempt=2)
    status = world.status()
    assert (status.phase, status.attempt) == (Phase.RUNNING, 2)
    writes = world.written()
    assert len(writes) <= MOST_WRITES, Counter(writes)
    assert world.events() == ["Restarted"]


def test_what_a_fault_cost_is_counted(world: World) -> None:
    """Twenty seconds to the checkpoint, thirty after it; eight GPUs."""
    running(world, GPUS)
    told(world, attempt=1, step=50, checkpoint=40)
    told(world, attempt=1, step=70)
    world.later(10)
    program_fails(world)
    world.settle()
    status = world.status()
    assert status.usage == Usage(running_seconds=50, gpu_seconds=400, lost_gpu_seconds=240, lost_steps=30)
    assert status.history[-1].lost_steps == 30


def test_an_undisturbed_run_loses_nothing(world: World) -> None:
    running(world, GPUS)
    world.later(100)
    world.has(a_pod(0).succeeded(), a_pod(1).succeeded(), a_child_job().complete())
    world.settle()
    assert world.status().usage == Usage(running_seconds=100, gpu_seconds=800)


def test_the_status_says_what_the_run_was_made_from(world: World) -> None:
    running(world)
    image = "registry/trainer@sha256:ab"
    world.has(a_pod(0), a_child_job())
    body = a_pod(0).manifest
    body["status"]["containerStatuses"][0]["imageID"] = image
    world.cluster.put(POD, body)
    world.settle()
    outcome = Outcome(outcome=Result.SUCCEEDED, provenance=Provenance(trainer_version="1.0", model_revision="c0ffee"))
    world.has(a_pod(1).succeeded(), a_child_job().complete())
    ended = a_pod(0).succeeded(outcome).manifest
    ended["status"]["containerStatuses"][0]["imageID"] = image
    world.cluster.put(POD, ended)
    world.settle()
    provenance = world.status().provenance
    assert provenance is not None
    assert (provenance.image, provenance.image_digest) == ("trainer:1", image)
    assert (provenance.trainer_version, provenance.model_revision) == ("1.0", "c0ffee")
    assert (provenance.runtimes or "").startswith("finetune/default sha256:")


def test_a_preempted_job_waits_in_its_queue_and_goes_on_as_the_same_attempt(world: World) -> None:
    world.user_applies(GPUS.with_spec(scheduling={"queueName": "team"}))
    world.settle()
    assert (world.status().phase, len(world.written())) == (Phase.QUEUED, 4)
    world.has(a_child_job().let_go(world.now))
    pods_run(world)
    world.later(100)
    held = a_child_job().held_back()
    world.has(held, AWorkload(held).waiting("no quota").evicted("Preempted", "Preempted to accommodate a workload"))
    world.has(a_pod(0).being_deleted(), a_pod(1).being_deleted())
    world.settle()
    status = world.status()
    assert (status.phase, status.attempt, status.restarts) == (Phase.QUEUED, 1, Restarts())
    assert {str(item.type): (item.status, item.reason) for item in status.conditions} == {
        "Ready": ("True", "Preempted"),
        "Running": ("False", "Preempted"),
    }
    world.gone(a_pod(0), a_pod(1))
    world.later(50)
    world.has(a_child_job().let_go(world.now))
    pods_run(world)
    status = world.status()
    assert (status.phase, status.attempt, status.restarts) == (Phase.RUNNING, 1, Restarts())
    assert status.usage == Usage(running_seconds=100, gpu_seconds=800, queued_seconds=50)
    assert world.names(BATCH_JOB) == [FIRST]


def test_downloads_hold_no_gpus_and_happen_once(world: World) -> None:
    world.user_applies(GPUS.with_spec(cache={"uri": "pvc://cache/shared"}))
    world.settle()
    (job,) = world.cluster.of(BATCH_JOB)
    assert (job["metadata"]["name"], job["metadata"]["labels"][LABEL_ROLE]) == (f"{FIRST}-fetch", ROLE_FETCH)
    assert (world.status().phase, world.names(SERVICE)) == (Phase.PENDING, [])
    fetching = a_child_job().that_fetches()
    world.has(fetching, a_pod().that_fetches())
    world.settle()
    assert world.status().phase is Phase.PENDING
    world.has(fetching.complete(), a_pod().that_fetches().succeeded())
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST, f"{FIRST}-fetch"]
    pods_run(world)
    assert (world.status().phase, world.status().attempt) == (Phase.RUNNING, 1)
    program_fails(world)
    world.settle()
    world.later(30)
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST, f"{FIRST}-fetch", SECOND]


def test_a_lost_node_leaves_a_smaller_gang_that_grows_at_the_next_restart(world: World) -> None:
    running(world, TWO.with_spec(elastic={"minNodes": 1, "waitSeconds": 60}))
    node_is_lost(world)
    world.settle()
    assert world.names(BATCH_JOB) == [SECOND]
    world.has(a_pod(0).of_attempt(2).born(world.now), a_pod(1).of_attempt(2).born(world.now).unschedulable("no room"))
    world.has(a_child_job(2).let_go(world.now))
    world.later(60)
    world.settle()
    assert (world.names(BATCH_JOB), world.status().phase) == ([], Phase.RESTARTING)
    world.gone(a_pod(0).of_attempt(2), a_pod(1).of_attempt(2))
    world.settle()
    assert world.names(BATCH_JOB) == [THIRD]
    (job,) = world.cluster.of(BATCH_JOB)
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1, 1)
    pods_run(world, attempt=3, nodes=1)
    status = world.status()
    assert (status.phase, status.nodes and status.nodes.desired, status.restarts) == (
        Phase.RUNNING,
        1,
        Restarts(total=1, infra=1),
    )
    world.has(a_pod(0).of_attempt(3).failed(1), a_child_job(3).failed())
    world.settle()
    world.later(30)
    world.settle()
    assert [
        job["spec"]["completions"] for job in world.cluster.of(BATCH_JOB) if job["metadata"]["name"].endswith("a4")
    ] == [2]


def test_pods_that_a_quota_refuses_are_told_of_and_start_by_themselves(world: World) -> None:
    world.user_applies(TWO)
    assert world.settle() == 2
    world.has(a_child_job())
    said = (
        'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: pods=1, used: pods=0, limited: pods=0'
    )
    world.warned(FIRST, "FailedCreate", said)
    world.later(2)
    world.settle()
    status = world.status()
    assert status.failure is not None
    assert (status.phase, status.failure.class_) == (Phase.PENDING, FailureClass.CHILD_REFUSED)
    assert "exceeded quota: gpus" in status.failure.message
    assert {str(item.type): item.status for item in status.conditions} == {"Ready": "False", "Stalled": "True"}
    pods_run(world)
    status = world.status()
    assert (status.phase, status.failure) == (Phase.RUNNING, None)


def test_the_end_of_a_job_leaves_nothing_to_clean_but_its_files(world: World) -> None:
    """The run's Service and the Job that downloaded are children, too."""
    job = TWO.with_spec(cache={"uri": "pvc://cache/shared"}).with_policy(ttlSecondsAfterFinished=60)
    world.user_applies(job)
    world.settle()
    world.has(a_child_job().that_fetches().complete(), a_pod().that_fetches().succeeded())
    world.settle()
    pods_run(world)
    world.has(a_pod(0).succeeded(), a_pod(1).succeeded(), a_child_job().complete())
    world.settle()
    world.later(60)
    world.settle()
    assert [world.names(kind) for kind in (BATCH_JOB, SERVICE, CONFIG_MAP)] == [[], [], []]
    assert world.status().phase is Phase.SUCCEEDED
