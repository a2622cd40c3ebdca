"""`status`: honest conditions for every phase, nothing that the schema refuses, no write without news."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.progress import Checkpoint, Failure, FailureClass, Outcome, Output, Progress, Result
from finetune_api.status import AttemptRecord, Condition, ConditionType, Nodes, Phase, Restarts, Run, Status
from finetune_operator.core.decide import decide
from finetune_operator.core.decision import Decision
from finetune_operator.core.job import current_run, read_status
from finetune_operator.core.observe import Children, Observed, observe
from finetune_operator.core.plan import plan
from finetune_operator.core.report import Report
from finetune_operator.core.situation import Situation
from finetune_operator.core.status import merge_patch, status, transitions, write_in
from support.builders import NOW, RUNTIMES, AChildJob, APod, a_child_job, a_job, a_pod
from support.kstatus import kstatus

LATER = "2026-11-21T11:00:00Z"
FAULT = Failure(class_=FailureClass.CODE_ERROR, reason="CodeError", message="boom")


def made(decision: Decision, before: Status | None = None, now: str = NOW) -> Status:
    job = a_job().with_nodes(2)
    job = job.with_status(before) if before else job
    current = current_run(job.job)
    return status(Situation(job.job, current, job.plan(), Observed(), now), decision, None)


@pytest.mark.parametrize(
    ("phase", "stalled", "expected", "conditions"),
    [
        (Phase.PENDING, False, "InProgress", {"Ready": "False", "Reconciling": "True"}),
        (Phase.PENDING, True, "Failed", {"Ready": "False", "Stalled": "True"}),
        (Phase.QUEUED, False, "Current", {"Ready": "True", "Running": "False"}),
        (Phase.RUNNING, False, "Current", {"Ready": "True", "Running": "True"}),
        (Phase.RESTARTING, False, "Current", {"Ready": "True", "Running": "False"}),
        (Phase.SUSPENDED, False, "Current", {"Ready": "True", "Running": "False", "Suspended": "True"}),
        (Phase.SUCCEEDED, False, "Current", {"Ready": "True", "Running": "False", "Complete": "True"}),
        (Phase.FAILED, True, "Failed", {"Ready": "False", "Stalled": "True", "Running": "False", "Failed": "True"}),
    ],
)
def test_conditions_and_kstatus_of_each_phase(
    phase: Phase, stalled: bool, expected: str, conditions: dict[str, str]
) -> None:
    job = a_job().with_status(made(Decision(phase, "Because", "why", stalled=stalled)))
    assert {item.type: item.status for item in job.job.status.conditions} == conditions
    assert kstatus(job.manifest) == expected


def test_every_status_tells_the_generation_that_it_is_about() -> None:
    written = made(Decision(Phase.RUNNING, "Training"))
    assert written.observed_generation == 1
    assert {item.observed_generation for item in written.conditions} == {1}


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    first = made(Decision(Phase.RUNNING, "Training"))
    same = made(Decision(Phase.RUNNING, "Training", "other words"), first, LATER)
    turned = made(Decision(Phase.RESTARTING, "CodeError"), first, LATER)

    def times(of: Status) -> dict[ConditionType, str]:
        return {item.type: item.last_transition_time for item in of.conditions}

    assert times(same) == {ConditionType.READY: NOW, ConditionType.RUNNING: NOW}
    assert times(turned) == {ConditionType.READY: NOW, ConditionType.RUNNING: LATER}


RUN = Run(index=1, generation=1, spec_hash="v1:0")
RUNNING = Status(phase=Phase.RUNNING, run=RUN, attempt=1, restarts=Restarts(), nodes=Nodes(desired=2, ready=2))
TURNED = Condition(type="Ready", status="True", reason="Training", message="a", last_transition_time=NOW)


@pytest.mark.parametrize(
    ("old", "new", "age", "wait"),
    [
        pytest.param({}, {}, 0, None, id="no news"),
        pytest.param({}, {"phase": Phase.SUCCEEDED}, 0, 0, id="a phase is told at once"),
        pytest.param({}, {"attempt": 2}, 0, 0, id="an attempt is told at once"),
        pytest.param(
            {"phase": Phase.RESTARTING}, {"attempt": 2}, 0, 60, id="that of a restart waits, until its pods run"
        ),
        pytest.param(
            {"phase": Phase.RESTARTING},
            {"attempt": 2, "checkpoint": Checkpoint(step=9)},
            0,
            0,
            id="unless the last one's pods have saved more since",
        ),
        pytest.param({}, {"failure": FAULT}, 0, 0, id="a failure is told at once"),
        pytest.param({}, {"progress": Progress(step=1)}, 4, 11, id="progress waits"),
        pytest.param({}, {"progress": Progress(step=1)}, 15, 0, id="until fifteen seconds are over"),
        pytest.param({}, {"progress": Progress(step=1)}, None, 0, id="or nobody knows when the last write was"),
        pytest.param({}, {"metrics": {"test_f1": 1.0}}, 0, 15, id="metrics wait"),
        pytest.param({}, {"checkpoint": Checkpoint(step=1)}, 0, 15, id="a checkpoint waits"),
        pytest.param(
            {"phase": Phase.SUSPENDED}, {"checkpoint": Checkpoint(step=8)}, 4, 11, id="nor longer once it is suspended"
        ),
        pytest.param({}, {"nodes": Nodes(desired=2, ready=1)}, 0, 15, id="readiness waits"),
        pytest.param({}, {"nodes": Nodes(desired=3, ready=2)}, 0, 0, id="another size does not"),
        pytest.param(
            {"conditions": [TURNED]},
            {"conditions": [TURNED.model_copy(update={"message": "b"})]},
            0,
            15,
            id="other words wait",
        ),
        pytest.param(
            {"conditions": [TURNED]},
            {"conditions": [TURNED.model_copy(update={"reason": "Lost"})]},
            0,
            0,
            id="another reason does not",
        ),
        pytest.param(
            {"phase": Phase.PENDING, "conditions": [TURNED]},
            {"conditions": [TURNED.model_copy(update={"reason": "Unschedulable"})]},
            1,
            4,
            id="unless it is why pods do not start yet, which is often over at once",
        ),
        pytest.param(
            {"phase": Phase.PENDING},
            {"nodes": Nodes(desired=2, ready=1)},
            15,
            45,
            id="pods that are up are counted later",
        ),
    ],
)
def test_when_a_status_is_written(old: dict[str, Any], new: dict[str, Any], age: float | None, wait: float) -> None:
    assert write_in(RUNNING.model_copy(update=old), RUNNING.model_copy(update={**old, **new}), age) == wait


def merged(base: Any, patch: Any) -> Any:
    """RFC 7396, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        result.pop(name, None) if value is None else result.update({name: merged(result.get(name), value)})
    return result


JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=1), inner, max_size=3),
)


@given(st.dictionaries(st.text("abc", max_size=1), JSON), st.dictionaries(st.text("abc", max_size=1), JSON))
def test_the_patch_makes_the_new_of_the_old(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, merge_patch(old, new)) == new


def test_the_patch_leaves_alone_what_another_version_wrote() -> None:
    stored = {"phase": "Running", "dreams": 3}
    patch = merge_patch(read_status(stored).to_dict(), Status(phase=Phase.SUCCEEDED).to_dict())
    assert merged(stored, patch)["dreams"] == 3


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param({"phase": Phase.PENDING}, {"phase": Phase.RUNNING}, [], id="started"),
        pytest.param({"phase": Phase.RESTARTING}, {"phase": Phase.RUNNING}, [], id="running again after a restart"),
        pytest.param({"phase": Phase.SUSPENDED}, {"phase": Phase.PENDING}, [], id="resumed: not yet running"),
        pytest.param(
            {"phase": Phase.RUNNING},
            {"phase": Phase.RESTARTING, "restarts": Restarts(total=1), "failure": FAULT},
            [("Restarted", "CodeError")],
            id="restarted",
        ),
        pytest.param(
            {"phase": Phase.RESTARTING, "restarts": Restarts(total=1), "failure": FAULT},
            {"phase": Phase.RESTARTING, "restarts": Restarts(total=1), "failure": FAULT, "attempt": 2},
            [],
            id="the next attempt of a restart that was told",
        ),
        pytest.param({"phase": Phase.RUNNING}, {"phase": Phase.SUSPENDED}, [("Suspended", None)], id="suspended"),
        pytest.param({"phase": Phase.RUNNING}, {"phase": Phase.SUCCEEDED}, [("Succeeded", None)], id="succeeded"),
        pytest.param(
            {"phase": Phase.RUNNING}, {"phase": Phase.FAILED, "failure": FAULT}, [("Failed", "CodeError")], id="failed"
        ),
        pytest.param({"phase": None}, {"phase": Phase.PENDING}, [], id="created"),
        pytest.param({"phase": Phase.RUNNING}, {"phase": Phase.RUNNING}, [], id="nothing"),
    ],
)
def test_what_people_are_told(old: dict[str, Any], new: dict[str, Any], expected: list[tuple[str, str | None]]) -> None:
    told = transitions(RUNNING.model_copy(update=old), RUNNING.model_copy(update=new))
    assert [(one.happening, one.failure_class) for one in told] == expected


LONG = st.sampled_from(["", "word", "x" * 300, "ü" * 3000, "z" * 20_000])
TIMES = st.sampled_from(["2026-11-21T09:00:00Z", "2026-11-21T09:59:59Z", NOW])


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    text = draw(LONG)
    failure = Failure(class_=draw(st.sampled_from(FailureClass)), reason=text[:256], message=text[:2048])
    return Outcome(
        outcome=draw(st.sampled_from(Result)),
        failure=draw(st.none() | st.just(failure)),
        metrics={f"test_{n}": 0.5 for n in range(draw(st.integers(0, 32)))},
        checkpoint=Checkpoint(step=draw(st.integers(0, 9)), uri=text[:1024]),
    )


@st.composite
def pods(draw: st.DrawFn) -> APod:
    pod = a_pod(draw(st.integers(0, 3))).of_attempt(draw(st.integers(1, 2)))
    code, text = draw(st.sampled_from([1, 65, 70, 75, 78, 137, 143])), draw(LONG)
    pod = draw(
        st.sampled_from(
            [
                pod,
                pod.pending("ImagePullBackOff", text),
                pod.unschedulable(text),
                pod.succeeded(draw(st.none() | outcomes())),
                pod.failed(code, at=draw(TIMES), message=text, outcome=draw(st.none() | outcomes())),
                pod.evicted(message=text),
            ]
        )
    )
    return draw(st.sampled_from([pod, pod.being_deleted(), pod.disrupted("EvictionByEvictionAPI")]))


@st.composite
def child_jobs(draw: st.DrawFn) -> AChildJob:
    job, text = a_child_job(draw(st.integers(1, 2))), draw(LONG)
    return draw(
        st.sampled_from([job, job.complete(), job.failed(text), job.failed_by_rule(draw(st.integers(0, 9)), 1, text)])
    )


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    history = [AttemptRecord(run=1, attempt=n, result="Failed", end_time=NOW) for n in range(draw(st.integers(0, 12)))]
    return Status(
        phase=draw(st.sampled_from(Phase)),
        run=Run(index=draw(st.integers(1, 2)), generation=1, spec_hash=draw(st.sampled_from(["v1:0", "v9:0"]))),
        attempt=draw(st.integers(0, 2)),
        restarts=Restarts(program=draw(st.integers(0, 4)), infra=draw(st.integers(0, 11))),
        history=history[-10:],
        checkpoint=draw(st.none() | st.just(Checkpoint(step=3))),
        metrics={f"old_{n}": 1.0 for n in range(draw(st.integers(0, 32)))},
        completion_time=draw(st.none() | TIMES),
        failure=draw(st.none() | st.just(FAULT)),
    )


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=120)
@given(
    st.none() | statuses(),
    st.lists(pods(), max_size=4),
    st.lists(pods(), max_size=2),
    st.lists(child_jobs(), max_size=2),
    st.booleans(),
    st.booleans(),
    LONG,
)
def test_no_status_is_refused_whatever_is_seen(
    before: Status | None,
    seen: list[APod],
    gone: list[APod],
    jobs: list[AChildJob],
    suspend: bool,
    edited: bool,
    text: str,
) -> None:
    job = a_job().with_nodes(2).suspended(suspend)
    job = job.edited(trainer={"image": text}) if edited else job
    job = job.with_status(before) if before else job
    current = current_run(job.job)
    planned = plan(job.job, current.run.index, RUNTIMES)
    children = Children(
        jobs=tuple(one.manifest for one in jobs),
        pods=tuple(pod.manifest for pod in seen),
        gone=tuple(pod.manifest for pod in gone),
    )
    situation = Situation(job.job, current, planned, observe(children, NOW, 120), NOW)
    report = Report(current.run.index, current.attempt, Progress(step=1), Checkpoint(step=2), {"test_f1": 1.0})
    decision = decide(situation)
    written = status(situation, decision, report)
    assert Status.model_validate(written.to_dict()) == written
    assert written.observed_generation == job.job.generation


def test_metrics_beyond_what_a_status_holds_push_out_the_oldest() -> None:
    before = RUNNING.model_copy(update={"metrics": {f"old_{n:02}": 1.0 for n in range(32)}})
    job = a_job().with_status(before)
    outcome = Outcome(outcome=Result.SUCCEEDED, metrics={"test_accuracy": 0.9})
    children = Children(jobs=(a_child_job().complete().manifest,), pods=(a_pod().succeeded(outcome).manifest,))
    seen = observe(children, NOW, 120)
    situation = Situation(job.job, current_run(job.job), job.plan(), seen, NOW)
    metrics = status(situation, decide(situation), None).metrics
    assert (len(metrics), metrics["test_accuracy"], "old_00" in metrics) == (32, 0.9, False)


GATE = Failure(
    class_=FailureClass.EVALUATION_GATE_FAILED, reason="EvaluationGateFailed", message="test_f1 is 0.5 (min 0.9)"
)
GATE_FAILED = Outcome(
    outcome=Result.FAILED,
    failure=GATE,
    metrics={"test_f1": 0.5},
    progress=Progress(step=9, total_steps=9, percentage=100),
    output=Output(uri="pvc://models/reviews", digest="sha256:ab"),
)
PLACE = "pvc://models/reviews/team-a/reviews/0a1b2"


@pytest.mark.parametrize(
    ("seen", "output", "metrics", "message"),
    [
        pytest.param(
            (a_child_job().failed(), a_pod().failed(76, outcome=GATE_FAILED), a_pod(1).succeeded()),
            Output(uri=PLACE, digest="sha256:ab"),
            {"test_f1": 0.5},
            "test_f1 is 0.5 (min 0.9)",
            id="in the trainer's words",
        ),
        pytest.param(
            (a_child_job().failed_by_rule(5, 76),),
            Output(uri=PLACE),
            {},
            "the model did not pass the evaluation gate",
            id="the pods are gone",
        ),
    ],
)
def test_a_gate_that_fails_ends_the_job_and_keeps_the_model(
    seen: tuple[APod | AChildJob, ...], output: Output, metrics: dict[str, float], message: str
) -> None:
    """Failed with the reason, for good: no restart, no next attempt; where the model is, and what it reached."""
    job = a_job().with_nodes(2).with_status(RUNNING)
    children = Children(
        jobs=tuple(one.manifest for one in seen if isinstance(one, AChildJob)),
        pods=tuple(one.manifest for one in seen if isinstance(one, APod)),
    )
    situation = Situation(job.job, current_run(job.job), job.plan(), observe(children, NOW, 120), NOW)
    decision = decide(situation)
    told = status(situation, decision, None)
    assert (decision.start, told.phase, told.restarts) == (None, Phase.FAILED, Restarts())
    assert told.failure is not None
    assert (told.failure.class_, told.failure.reason) == (FailureClass.EVALUATION_GATE_FAILED, "EvaluationGateFailed")
    assert message in told.failure.message
    ready = next(item for item in told.conditions if item.type is ConditionType.READY)
    assert (ready.status, ready.reason) == ("False", "EvaluationGateFailed")
    assert (told.output, told.metrics) == (output, metrics)
    later = job.with_status(told)
    again = decide(Situation(later.job, current_run(later.job), later.plan(), observe(children, LATER, 120), LATER))
    assert (again.keep, again.start) == (True, None)
