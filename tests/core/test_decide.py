"""`decide`: one rule wins, and says why. The whole life is in tests/shell/test_reconcile.py; here are the edges."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from finetune_api.progress import Failure, FailureClass
from finetune_api.status import AttemptRecord, Phase, Restarts
from finetune_operator.core.decide import decide
from finetune_operator.core.decision import Decision, refused_by_server
from finetune_operator.core.plan import Plan
from support.builders import NOW, AChildJob, AJob, APod, AWorkload, a_child_job, a_job, a_pod
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


QUEUED = TWO.with_spec(scheduling={"queueName": "team"})
HELD = a_child_job().held_back()
ELASTIC = TWO.with_spec(elastic={"minNodes": 1, "waitSeconds": 60})
OWN = TWO.with_spec(trainer={"image": "own:1", "framework": "torch"}).with_policy(hangTimeoutSeconds=600)
CACHED = TWO.with_spec(cache={"uri": "pvc://cache/shared"})
FETCH, FETCH_POD = a_child_job().that_fetches(), a_pod().that_fetches()
MINUTE, HOUR = "2026-11-21T10:01:00Z", "2026-11-21T11:00:00Z"
SINCE_NOW = [{"type": "Running", "status": "True", "reason": "Training", "lastTransitionTime": NOW}]


@dataclass(frozen=True)
class Case:
    """What is seen, and what is decided on it: phase, reason, a part of the message, Jobs to stop, result if closed."""

    job: AJob
    seen: tuple[APod | AChildJob | AWorkload, ...]
    phase: Phase
    reason: str
    message: str = ""
    stop: tuple[str, ...] = ()
    closed: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


CASES = {
    "the queue has not let it in": Case(
        in_attempt(QUEUED, phase="Pending"),
        (HELD, AWorkload(HELD).waiting("couldn't assign flavors: insufficient quota for cpu")),
        Phase.QUEUED,
        "Pending",
        "insufficient quota",
    ),
    "nobody knows why yet": Case(in_attempt(QUEUED, phase="Pending"), (HELD,), Phase.QUEUED, "Queued"),
    "put out for a more important one, pods are saving": Case(
        in_attempt(QUEUED),
        (
            HELD,
            AWorkload(HELD).waiting("waiting").evicted("Preempted", "Preempted to accommodate a workload"),
            a_pod().being_deleted(),
            a_pod(1).failed(75),
        ),
        Phase.QUEUED,
        "Preempted",
        "to accommodate",
    ),
    "let in again after it ran: pods start": Case(
        in_attempt(QUEUED, phase="Queued", usage={"runningSeconds": 30}),
        (a_child_job().let_go(MINUTE), a_pod().born(MINUTE).pending(), a_pod(1).born(MINUTE)),
        Phase.RESTARTING,
        "Starting",
        more={"now": MINUTE},
    ),
    "what ended before it was let in again is not held against it": Case(
        in_attempt(QUEUED, phase="Queued", usage={"runningSeconds": 30}),
        (a_child_job().let_go(MINUTE), a_pod().born(MINUTE), a_pod(1).born(MINUTE)),
        Phase.RUNNING,
        "Training",
        more={"now": MINUTE, "gone": (a_pod(1).failed(75).being_deleted(),)},
    ),
    "the user suspends what the queue holds": Case(
        in_attempt(QUEUED.suspended(), phase="Queued"),
        (HELD,),
        Phase.SUSPENDED,
        "Suspended",
        stop=(FIRST,),
        closed="Suspended",
    ),
    "a fault while it was to be suspended": Case(
        in_attempt(TWO.suspended()),
        (a_child_job().failed(), a_pod().failed(1), a_pod(1)),
        Phase.SUSPENDED,
        "Suspended",
        "ended early",
        closed="Failed",
    ),
    "running for too long": Case(
        in_attempt(TWO.with_policy(activeDeadlineSeconds=3600), conditions=SINCE_NOW),
        (a_child_job(), a_pod(), a_pod(1)),
        Phase.FAILED,
        "DeadlineExceeded",
        "spec.runPolicy.activeDeadlineSeconds",
        (FIRST,),
        "Failed",
        {"now": HOUR},
    ),
    "running for too long with what former attempts took": Case(
        in_attempt(TWO.with_policy(activeDeadlineSeconds=4000), conditions=SINCE_NOW, usage={"runningSeconds": 400}),
        (a_child_job(), a_pod(), a_pod(1)),
        Phase.FAILED,
        "DeadlineExceeded",
        "4000 seconds",
        (FIRST,),
        "Failed",
        {"now": HOUR},
    ),
    "waiting does not count for the deadline": Case(
        in_attempt(TWO.with_policy(activeDeadlineSeconds=60), phase="Pending"),
        (a_child_job(), a_pod(), a_pod(1).pending()),
        Phase.PENDING,
        "Starting",
        more={"now": "2026-11-21T10:20:00Z"},
    ),
    "a program that makes no step": Case(
        in_attempt(OWN, progress={"step": 7}),
        (a_child_job(), a_pod(), a_pod(1)),
        Phase.RESTARTING,
        "Hang",
        "since step 7",
        (FIRST,),
        "Failed",
        {"now": HOUR, "stepped_at": NOW},
    ),
    "a program that has never told of a step is left alone": Case(
        in_attempt(OWN), (a_child_job(), a_pod(), a_pod(1)), Phase.RUNNING, "Training", more={"now": HOUR}
    ),
    "our trainer watches itself": Case(
        in_attempt(TWO.with_policy(hangTimeoutSeconds=600)),
        (a_child_job(), a_pod(), a_pod(1)),
        Phase.RUNNING,
        "Training",
        more={"now": HOUR, "stepped_at": NOW},
    ),
    "nobody looks for hangs where the time is 0": Case(
        in_attempt(OWN.with_policy(hangTimeoutSeconds=0)),
        (a_child_job(), a_pod(), a_pod(1)),
        Phase.RUNNING,
        "Training",
        more={"now": HOUR, "stepped_at": NOW},
    ),
    "a gang that does not come together lets go": Case(
        in_attempt(TWO, phase="Pending"),
        (a_child_job(), a_pod(), a_pod(1).unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")),
        Phase.RESTARTING,
        "Unschedulable",
        "Insufficient nvidia.com/gpu",
        (FIRST,),
        "Failed",
        {"now": HOUR},
    ),
    "time in the queue is no time to start": Case(
        in_attempt(QUEUED, phase="Queued"), (HELD,), Phase.QUEUED, "Queued", more={"now": HOUR}
    ),
    "a claim that is missing": Case(
        in_attempt(TWO, phase="Pending"),
        (a_child_job(), *(a_pod(n).unschedulable('persistentvolumeclaim "models" not found') for n in (0, 1))),
        Phase.PENDING,
        "ClaimNotFound",
        "models",
    ),
    "one of two nodes can be had": Case(
        in_attempt(ELASTIC, phase="Restarting", history=[over(nodes=2, reason="NodeLost").to_dict()], attempt=2),
        (a_child_job(2), a_pod().of_attempt(2), a_pod(1).of_attempt(2).unschedulable("no room")),
        Phase.RESTARTING,
        "FewerNodes",
        "goes on with 1",
        ("reviews-0a1b2-r1a2",),
        "Resized",
        {"now": MINUTE},
    ),
    "none can be had: that is too few": Case(
        in_attempt(ELASTIC, phase="Pending"),
        (a_child_job(), a_pod().unschedulable("no room"), a_pod(1).unschedulable("no room")),
        Phase.PENDING,
        "Unschedulable",
        more={"now": MINUTE},
    ),
    "a job that is not elastic waits for all": Case(
        in_attempt(TWO, phase="Pending"),
        (a_child_job(), a_pod(), a_pod(1).unschedulable("no room")),
        Phase.PENDING,
        "Unschedulable",
        more={"now": MINUTE},
    ),
    "a rule ends what would be tried again": Case(
        in_attempt(TWO.with_policy(rules=[{"name": "broken", "onExitCodes": [3], "action": "Fail"}])),
        (a_child_job().failed(), a_pod().failed(3), a_pod(1)),
        Phase.FAILED,
        "CodeError",
        "rule broken",
        closed="Failed",
    ),
    "a rule tries again what would be final": Case(
        in_attempt(TWO.with_policy(rules=[{"name": "late-rows", "onReasons": ["DataError"], "action": "Restart"}])),
        (a_child_job().failed(), a_pod().failed(65), a_pod(1)),
        Phase.RESTARTING,
        "DataError",
        "rule late-rows: Restart",
        closed="Failed",
    ),
    "downloads come first": Case(
        in_attempt(CACHED, phase="Pending"), (FETCH, FETCH_POD), Phase.PENDING, "Fetching", "no GPU is held"
    ),
    "downloads that failed": Case(
        in_attempt(CACHED, phase="Pending"),
        (FETCH.failed(), FETCH_POD.failed(77)),
        Phase.FAILED,
        "AuthError",
        closed="Failed",
    ),
    "downloads that cannot start": Case(
        in_attempt(CACHED, phase="Pending"),
        (FETCH, FETCH_POD.pending("ImagePullBackOff", 'pulling "own:1"')),
        Phase.PENDING,
        "ImagePullBackOff",
    ),
    "the user suspends the downloads": Case(
        in_attempt(CACHED.suspended(), phase="Pending"),
        (FETCH, FETCH_POD),
        Phase.SUSPENDED,
        "Suspended",
        stop=(f"{FIRST}-fetch",),
        closed="Suspended",
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_what_is_seen_decides(case: Case) -> None:
    decision = decided(case.job, *case.seen, **case.more)
    result = decision.closed.result if decision.closed else None
    assert (decision.phase, decision.reason, decision.stop, result) == (case.phase, case.reason, case.stop, case.closed)
    assert case.message in decision.message
    assert decision.start is None


def test_what_was_downloaded_is_trained_on_by_the_same_attempt() -> None:
    decision = decided(in_attempt(CACHED, phase="Pending"), FETCH.complete(), FETCH_POD.succeeded())
    assert decision.start is not None
    assert (decision.start.attempt, decision.fetch, decision.closed) == (1, False, None)


@pytest.mark.parametrize(
    ("history", "fetch"),
    [
        pytest.param([], True, id="the first attempt"),
        pytest.param([over(class_="Unavailable")], True, id="one that came no further than downloads"),
        pytest.param([over(class_="CodeError", nodes=2)], False, id="one that trained: its downloads are there"),
    ],
)
def test_downloads_are_made_once_a_run(history: list[AttemptRecord], fetch: bool) -> None:
    job = CACHED
    if history:
        job = in_attempt(CACHED, phase="Restarting", history=[record.to_dict() for record in history])
    decision = decided(job, now=HOUR)
    assert decision.start is not None
    assert decision.fetch is fetch


@pytest.mark.parametrize(
    ("history", "nodes"),
    [
        pytest.param([over(nodes=2, class_="NodeLost")], 2, id="after a fault all are asked for"),
        pytest.param([over(result="Resized", reason="FewerNodes", nodes=1)], 1, id="then as many as could be had"),
        pytest.param(
            [over(result="Resized", reason="FewerNodes", nodes=1), over(2, nodes=1, class_="CodeError")],
            2,
            id="and all again at the next restart",
        ),
        pytest.param([over(result="Resized", reason="MoreNodes", nodes=2)], 2, id="or where it grows by itself"),
    ],
)
def test_how_many_nodes_the_next_attempt_gets(history: list[AttemptRecord], nodes: int) -> None:
    records = [record.to_dict() for record in history]
    decision = decided(in_attempt(ELASTIC, len(history), phase="Restarting", history=records), now=HOUR)
    assert decision.start is not None
    assert decision.start.nodes == nodes


def test_a_job_that_grows_saves_and_asks_for_all_nodes() -> None:
    """Each try that comes to nothing doubles the time to the next."""
    resized = over(result="Resized", reason="FewerNodes", nodes=1)
    growing = ELASTIC.with_spec(elastic={"maxNodes": 2, "grow": True, "growIntervalSeconds": 600})
    job = in_attempt(growing, 2, conditions=SINCE_NOW, history=[resized.to_dict()])
    seen = (a_child_job(2), a_pod().of_attempt(2))
    small = situation(job, *seen)
    assert isinstance(small.plan, Plan)

    def after(now: str) -> Decision:
        return decide(replace(small, plan=small.plan.with_nodes(1), now=now))  # type: ignore[union-attr]

    assert (after(MINUTE).phase, after(MINUTE).requeue_after) == (Phase.RUNNING, 540)
    grown = after("2026-11-21T10:10:00Z")
    assert (grown.reason, grown.closed and grown.closed.result, grown.stop) == (
        "MoreNodes",
        "Resized",
        ("reviews-0a1b2-r1a2",),
    )


def test_the_next_attempt_keeps_away_from_bad_nodes() -> None:
    """A rule shuts a node out; one that broke two attempts is only avoided, for it may be innocent."""
    history = [over(n, class_="CodeError", node="node-2", nodes=2).to_dict() for n in (1, 2)]
    job = in_attempt(TWO, 2, phase="Restarting", history=history, excludedNodes=["node-9"])
    decision = decided(job, now=HOUR)
    assert decision.start is not None
    assert (decision.start.excluded, decision.start.avoided) == (("node-9",), ("node-2",))


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
