"""The first fault is the cause: which pod, which class, which words."""

from typing import Any

import pytest

from finetune_api.progress import BUDGETS, Failure, FailureClass, Outcome, Result
from finetune_operator.core.faults import WORDS, fault
from finetune_operator.core.observe import Children, NodeHealth, observe
from support.builders import NOW, AChildJob, APod, a_child_job, a_pod


def cause(*pods: APod, job: AChildJob | None = None, gone: tuple[APod, ...] = (), **more: Any) -> Failure | None:
    jobs = (job.manifest,) if job else ()
    children = Children(jobs, tuple(p.manifest for p in pods), tuple(p.manifest for p in gone), **more)
    found = fault(observe(children, NOW, 120), 1, 1, "team-a")
    return found.failure if found else None


FAILED = a_child_job().failed()
DATA_ERROR = Failure(class_=FailureClass.DATA_ERROR, reason="NoColumn", message="column label is not there", hint="see")


@pytest.mark.parametrize(
    ("pod", "class_"),
    [
        pytest.param(a_pod().failed(65), "DataError", id="65"),
        pytest.param(a_pod().failed(69), "Unavailable", id="69"),
        pytest.param(a_pod().failed(70), "CodeError", id="70"),
        pytest.param(a_pod().failed(71), "OutOfMemoryGPU", id="71"),
        pytest.param(a_pod().failed(75), "Preempted", id="75"),
        pytest.param(a_pod().failed(76), "EvaluationGateFailed", id="76"),
        pytest.param(a_pod().failed(78), "ConfigError", id="78"),
        pytest.param(a_pod().failed(137), "OutOfMemoryHost", id="137"),
        pytest.param(a_pod().failed(143), "Preempted", id="143"),
        pytest.param(a_pod().failed(1), "CodeError", id="any other"),
        pytest.param(a_pod().failed(1, reason="OOMKilled"), "OutOfMemoryHost", id="killed for memory"),
        pytest.param(a_pod().failed(128, reason="StartError"), "ConfigError", id="the image has no such program"),
        pytest.param(a_pod().failed(137).being_deleted(), "PodDeleted", id="killed as it was deleted"),
        pytest.param(a_pod().failed(75).being_deleted(), "PodDeleted", id="saved as it was deleted"),
        pytest.param(a_pod().failed(75).disrupted("PreemptionByScheduler"), "Preempted", id="preempted"),
        pytest.param(a_pod().failed(137).disrupted("EvictionByEvictionAPI"), "Evicted", id="drained"),
        pytest.param(a_pod().failed(143).disrupted("DeletionByTaintManager"), "NodeLost", id="node went away"),
        pytest.param(a_pod().failed(65).being_deleted(), "DataError", id="its own fault although deleted"),
        pytest.param(a_pod().evicted(), "Evicted", id="evicted by the kubelet"),
        pytest.param(a_pod().evicted("NodeShutdown"), "Preempted", id="node shut down"),
        pytest.param(a_pod().evicted("UnexpectedAdmissionError"), "Evicted", id="turned away by the node"),
        pytest.param(
            a_pod().failed(70, outcome=Outcome(outcome=Result.FAILED, failure=DATA_ERROR)),
            "DataError",
            id="trainer knows better",
        ),
    ],
)
def test_class_of_a_failed_pod(pod: APod, class_: str) -> None:
    failure = cause(pod, job=FAILED)
    assert failure is not None
    assert failure.class_ == class_


def test_what_the_trainer_said_is_told_with_where_it_happened() -> None:
    outcome = Outcome(outcome=Result.FAILED, failure=DATA_ERROR)
    pod = a_pod(1).failed(65, outcome=outcome)
    assert cause(pod, job=FAILED) == DATA_ERROR.model_copy(
        update={"rank": 1, "pod": pod.name, "node": "node-1", "exit_code": 65}
    )


def test_another_program_is_described_and_its_log_kept() -> None:
    pod = a_pod().failed(139, message="segfault at 0")
    assert cause(pod, job=FAILED) == Failure(
        class_=FailureClass.CODE_ERROR,
        reason="CodeError",
        message=f"pod {pod.name}: the training program failed: container trainer ended with exit code 139 (SIGSEGV)",
        hint=f"read the pod's log: kubectl logs {pod.name} -n team-a",
        rank=0,
        pod=pod.name,
        node="node-1",
        exit_code=139,
        signal="SIGSEGV",
        log_tail="segfault at 0",
    )


EARLY, LATE = "2026-11-21T09:59:00Z", "2026-11-21T09:59:05Z"


@pytest.mark.parametrize(
    ("pods", "rank"),
    [
        pytest.param((a_pod(0).failed(70, at=LATE), a_pod(1).failed(65, at=EARLY)), 1, id="the earlier end"),
        pytest.param((a_pod(0).failed(70, at=EARLY), a_pod(1).failed(70, at=EARLY)), 0, id="same second: lower rank"),
        pytest.param(
            (a_pod(0).failed(75, at=EARLY).being_deleted(EARLY), a_pod(1).failed(65, at=EARLY)),
            1,
            id="same second: not the one that was then deleted",
        ),
        pytest.param(
            (a_pod(0).failed(70, at=EARLY), a_pod(1).failed(75, at=LATE).being_deleted("2026-11-21T10:01:00Z", 135)),
            1,
            id="deleted before the other failed",
        ),
    ],
)
def test_the_first_fault_is_the_cause(pods: tuple[APod, ...], rank: int) -> None:
    failure = cause(*pods, job=FAILED)
    assert failure is not None
    assert failure.rank == rank


@pytest.mark.parametrize(
    ("rule", "code", "class_"),
    [
        pytest.param(0, 137, "Evicted", id="disruption"),
        pytest.param(1, 65, "DataError", id="65"),
        pytest.param(4, 143, "Preempted", id="143"),
        pytest.param(8, 3, "CodeError", id="any other"),
        pytest.param(42, 3, "CodeError", id="a rule of another version"),
    ],
)
def test_the_jobs_condition_tells_the_class_when_the_pod_is_gone(rule: int, code: int, class_: str) -> None:
    failure = cause(job=a_child_job().failed_by_rule(rule, code, "p-0"))
    assert failure is not None
    assert (failure.class_, failure.pod, failure.exit_code) == (class_, "p-0", code)


def test_a_pods_last_words_count_more_than_the_condition() -> None:
    failure = cause(job=a_child_job().failed_by_rule(7, 137), gone=(a_pod().failed(137).being_deleted(),))
    assert failure is not None
    assert failure.class_ == "PodDeleted"


def test_a_pod_that_vanished_without_a_word_was_deleted() -> None:
    failure = cause(job=FAILED, gone=(a_pod(),))
    assert failure is not None
    assert failure.class_ == "PodDeleted"


def test_a_deleted_job_is_a_deleted_pod() -> None:
    failure = cause()
    assert failure is not None
    assert (failure.class_, failure.message) == (FailureClass.POD_DELETED, "the Job was deleted")


def test_a_lost_node_ends_an_attempt_whose_job_still_runs() -> None:
    nodes = {"node-1": NodeHealth(ready=False, since="2026-11-21T09:00:00Z")}
    failure = cause(a_pod().not_ready(), job=a_child_job(), nodes=nodes)
    assert failure is not None
    assert (failure.class_, failure.node) == (FailureClass.NODE_LOST, "node-1")


@pytest.mark.parametrize(
    ("pods", "job"),
    [
        pytest.param((a_pod(),), a_child_job(), id="running"),
        pytest.param((a_pod().failed(1),), a_child_job(), id="a pod failed, the others are being stopped"),
        pytest.param((a_pod().succeeded(),), a_child_job().complete(), id="succeeded"),
    ],
)
def test_no_fault_before_the_attempt_is_over(pods: tuple[APod, ...], job: AChildJob) -> None:
    assert cause(*pods, job=job) is None


def test_every_class_has_words() -> None:
    assert set(WORDS) == set(FailureClass) == set(BUDGETS)
