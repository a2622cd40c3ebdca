"""`decide`: one rule wins, and says why. The whole life is in tests/shell/test_reconcile.py; here are the edges."""

from typing import Any

import pytest

from finetune_api.progress import Failure, FailureClass
from finetune_api.status import Phase, Restarts
from finetune_operator.core.decide import Decision, decide, refused_by_server
from support.builders import AChildJob, AJob, APod, AWorkload, a_child_job, a_job, a_pod
from support.situations import in_attempt, over, situation

FIRST = "reviews-0a1b2-r1a1"


def decided(job: AJob, *seen: APod | AChildJob | AWorkload, **more: Any) -> Decision:
    return decide(situation(job, *seen, **more))


TWO = a_job().with_nodes(2)
FAULT = Failure(class_=FailureClass.CODE_ERROR, reason="CodeError", message="boom")


@pytest.mark.parametrize(
    ("job", "seen", "phase", "reason"),
    [
        pytest.param(TWO, (), Phase.PENDING, "Starting", id="new"),
        pytest.param(TWO.suspended(), (), Phase.SUSPENDED, "Suspended", id="new and suspended"),
        pytest.param(
            TWO.suspended().with_spec(runtimeRef={"name": "late"}),
            (),
            Phase.SUSPENDED,
            "Suspended",
            id="suspended first",
        ),
        pytest.param(
            TWO.with_spec(runtimeRef={"name": "late"}), (), Phase.PENDING, "RuntimeNotFound", id="a runtime is missing"
        ),
        pytest.param(
            in_attempt(TWO, phase="Pending"),
            (a_child_job(), a_pod().pending()),
            Phase.PENDING,
            "Starting",
            id="pods are created",
        ),
        pytest.param(
            in_attempt(TWO, phase="Pending"),
            (a_child_job(), a_pod(), a_pod(1).unschedulable("no GPU")),
            Phase.PENDING,
            "Unschedulable",
            id="no place for a pod is no failure",
        ),
        pytest.param(
            in_attempt(TWO, phase="Pending"),
            (a_child_job(), a_pod().pending("ImagePullBackOff")),
            Phase.PENDING,
            "ImagePullBackOff",
            id="no image is no failure yet",
        ),
        pytest.param(
            in_attempt(TWO, phase="Pending"),
            (a_child_job(), a_pod().succeeded(), a_pod(1)),
            Phase.RUNNING,
            "Training",
            id="one was so fast that it is over",
        ),
        pytest.param(
            in_attempt(TWO),
            (a_child_job(), a_pod().not_ready(), a_pod(1)),
            Phase.RUNNING,
            "Training",
            id="still running",
        ),
        pytest.param(
            in_attempt(
                TWO, 2, phase="Restarting", failure=FAULT.to_dict(), history=[over(reason="CodeError").to_dict()]
            ),
            (a_child_job(2), a_pod().of_attempt(2)),
            Phase.RESTARTING,
            "CodeError",
            id="restarting until all pods run",
        ),
        pytest.param(
            in_attempt(TWO.suspended()),
            (a_child_job().complete(), a_pod().succeeded()),
            Phase.SUCCEEDED,
            "Completed",
            id="done before it could be suspended",
        ),
        pytest.param(
            in_attempt(TWO.suspended()),
            (a_child_job().failed_by_rule(6, 78),),
            Phase.FAILED,
            "ConfigError",
            id="failed before it could be suspended",
        ),
        pytest.param(
            in_attempt(TWO.suspended(), phase="Restarting", history=[over().to_dict()]),
            (a_child_job().failed_by_rule(8, 1),),
            Phase.SUSPENDED,
            "Suspended",
            id="suspended while it waits for a restart",
        ),
    ],
)
def test_phase_and_reason(job: AJob, seen: tuple[APod | AChildJob, ...], phase: Phase, reason: str) -> None:
    decision = decided(job, *seen)
    assert (decision.phase, decision.reason) == (phase, reason)


def test_the_first_start_needs_no_second_look_but_every_other_does() -> None:
    first = decided(TWO)
    again = decided(in_attempt(TWO, phase="Restarting", history=[over(at="2026-11-21T09:00:00Z").to_dict()]))
    assert (first.start.attempt, first.confirm) == (1, False)  # type: ignore[union-attr]
    assert (again.start.attempt, again.confirm) == (2, True)  # type: ignore[union-attr]


def test_a_restart_waits_for_its_back_off() -> None:
    job = in_attempt(
        TWO,
        phase="Restarting",
        history=[over(class_="CodeError", reason="CodeError").to_dict()],
        failure=FAULT.to_dict(),
        restarts=Restarts(total=2, program=2).to_dict(),
    )
    early, late = "2026-11-21T10:00:05Z", "2026-11-21T10:00:20Z"
    assert (decided(job, now=early).start, decided(job, now=early).requeue_after) == (None, 15)
    assert decided(job, now=late).start is not None


@pytest.mark.parametrize(
    ("code", "rule", "restarts", "ends"),
    [
        pytest.param(1, 8, {"program": 2}, False, id="program: some left"),
        pytest.param(1, 8, {"program": 3}, True, id="program: none left"),
        pytest.param(1, 8, {"infra": 99}, False, id="program: the other budget does not count"),
        pytest.param(75, 4, {"program": 99}, False, id="infrastructure: the other budget does not count"),
        pytest.param(75, 4, {"infra": 10}, True, id="infrastructure: none left"),
        pytest.param(65, 1, {}, True, id="data: final"),
        pytest.param(78, 6, {}, True, id="configuration: final"),
        pytest.param(137, 7, {}, True, id="memory: final"),
    ],
)
def test_budgets(code: int, rule: int, restarts: dict[str, int], ends: bool) -> None:
    decision = decided(in_attempt(TWO, restarts=restarts), a_child_job().failed_by_rule(rule, code))
    assert decision.phase is (Phase.FAILED if ends else Phase.RESTARTING)
    assert decision.confirm


def test_jobs_that_still_run_are_stopped_before_the_next_attempt() -> None:
    restarting = in_attempt(TWO, phase="Restarting", history=[over().to_dict()])
    decision = decided(restarting, a_child_job(), a_pod())
    assert (decision.stop, decision.start, decision.requeue_after) == ((FIRST,), None, 30)


def test_an_attempt_that_was_made_before_a_crash_goes_on() -> None:
    restarting = in_attempt(TWO, phase="Restarting", history=[over(at="2026-11-21T09:00:00Z").to_dict()])
    decision = decided(restarting, a_child_job().failed(), a_child_job(2), a_pod().of_attempt(2))
    assert (decision.phase, decision.stop, decision.start) == (Phase.RESTARTING, (), None)


def test_success_without_the_trainers_words_is_looked_at_again() -> None:
    decision = decided(in_attempt(TWO), a_child_job().complete())
    assert decision.confirm
    assert "left no metrics" in decision.message


@pytest.mark.parametrize(
    ("final", "message", "phase", "reason"),
    [
        pytest.param(True, "spec: no", Phase.FAILED, "ChildInvalid", id="for good"),
        pytest.param(False, "exceeded quota: pods", Phase.PENDING, "QuotaExceeded", id="quota"),
        pytest.param(False, "forbidden", Phase.PENDING, "ChildRefused", id="forbidden"),
    ],
)
def test_a_refused_child(final: bool, message: str, phase: Phase, reason: str) -> None:
    decision = refused_by_server(decided(TWO), message, final=final)
    assert (decision.phase, decision.reason, decision.stalled, decision.start) == (phase, reason, True, None)
    assert decision.failure is not None
    assert message in decision.failure.message
    assert decision.failure.hint
