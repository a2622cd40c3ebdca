"""The life of a job before a fake API server: what is written, how often, and what a crash in between changes."""

from collections import Counter
from collections.abc import Callable

import pytest

from finetune_api.progress import Checkpoint, Failure, FailureClass, Outcome, Progress, Result
from finetune_api.status import ConditionType, Phase
from finetune_operator.core.report import Report
from finetune_operator.shell import errors
from finetune_operator.shell.cluster import BATCH_JOB, CONFIG_MAP, EVENT, JOB, NODE, SERVICE, Kind
from finetune_operator.shell.store import Key
from support.builders import UID, AJob, a_child_job, a_job, a_pod
from support.fakes import Crash, FakeCluster, World, finish

KEY = Key("team-a", "reviews")
FIRST = "reviews-0a1b2-r1a1"
SECOND = "reviews-0a1b2-r1a2"
DONE = Outcome(
    outcome=Result.SUCCEEDED,
    metrics={"test_accuracy": 0.91},
    progress=Progress(step=100, total_steps=100),
    checkpoint=Checkpoint(step=100),
)


@pytest.fixture
def world() -> World:
    world = World()
    world.runtime(image="trainer:1")
    return world


def running(world: World, job: AJob | None = None) -> World:
    """A two-node job whose pods train."""
    world.user_applies(job or a_job().with_nodes(2))
    world.settle()
    world.has(a_pod(0), a_pod(1))
    world.settle()
    world.written()
    return world


def finished(world: World, attempt: int = 1) -> None:
    world.has(
        *(a_pod(rank).of_attempt(attempt).succeeded(DONE if rank == 0 else None) for rank in range(2)),
        a_child_job(attempt).complete(),
    )
    world.settle()


def conditions(world: World) -> dict[str, str]:
    return {str(item.type): item.status for item in world.status().conditions}


def test_an_undisturbed_job_costs_six_writes_and_no_event(world: World) -> None:
    world.user_applies(a_job().with_nodes(2))
    world.settle()
    assert world.status().phase is Phase.PENDING
    world.has(a_pod(0).pending(), a_pod(1).pending())
    world.settle()
    world.has(a_pod(0), a_pod(1).pending())
    world.settle()
    world.has(a_pod(1))
    world.settle()
    assert world.status().phase is Phase.RUNNING
    finished(world)
    assert world.status().phase is Phase.SUCCEEDED
    assert Counter(world.written()) == {
        "create configmaps": 1,
        "create services": 1,
        "create jobs": 1,
        "patch finetunejobs/status": 3,
    }


def test_children_are_there_before_the_status_tells_of_them(world: World) -> None:
    world.user_applies(a_job().with_nodes(2))
    world.settle()
    assert world.written() == [
        "create configmaps",
        "create services",
        "create jobs",
        "patch finetunejobs/status",
    ]


@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed", "Suspended", "waiting for its runtime"])
def test_nothing_is_written_where_nothing_happens(world: World, phase: str) -> None:
    if phase == "waiting for its runtime":
        world.user_applies(a_job().with_spec(runtimeRef={"name": "late"}))
    else:
        running(world)
    if phase == "Succeeded":
        finished(world)
    if phase == "Failed":
        world.has(a_pod().failed(78), a_child_job().failed_by_rule(6, 78))
    if phase == "Suspended":
        world.user_applies(a_job().with_nodes(2).suspended())
    world.settle()
    world.written()
    for _ in range(5):
        world.later(600)
        world.settle()
    world.restart_operator()
    world.settle()
    assert world.written() == []


def test_what_the_trainer_said_last_is_in_the_status(world: World) -> None:
    finished(running(world))
    status = world.status()
    assert status.metrics == {"test_accuracy": 0.91}
    assert status.progress == Progress(percentage=100, step=100, total_steps=100, eta_seconds=0)
    assert status.output is not None
    assert status.output.uri == "pvc://models/reviews/team-a/reviews/0a1b2"
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.uri) == (
        100,
        "pvc://models/reviews/team-a/reviews/0a1b2/checkpoints",
    )


def test_a_deleted_pod_restarts_the_gang_from_the_checkpoint(world: World) -> None:
    running(world)
    world.reconciler.take_report(KEY, Report(1, 1, Progress(step=60), Checkpoint(step=50), {}))
    world.later(20)
    world.settle()
    preempted = Outcome(outcome=Result.PREEMPTED, checkpoint=Checkpoint(step=60))
    world.has(a_pod(0).failed(75), a_pod(1).failed(75, outcome=preempted).being_deleted(world.now))
    world.watch()
    world.gone(a_pod(1))
    world.has(a_child_job().failed_by_rule(4, 75))
    world.settle()
    status = world.status()
    assert status.phase is Phase.RESTARTING
    assert status.restarts is not None
    assert (status.restarts.total, status.restarts.infra, status.restarts.program) == (1, 1, 0)
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.resumed_from_step) == (60, None)
    assert world.names(BATCH_JOB) == [FIRST, SECOND]
    world.has(a_pod(0).of_attempt(2), a_pod(1).of_attempt(2))
    world.reconciler.take_report(KEY, Report(1, 2, Progress(step=61), Checkpoint(resumed_from_step=60), {}))
    world.settle()
    finished(world, attempt=2)
    status = world.status()
    assert status.phase is Phase.SUCCEEDED
    assert status.checkpoint is not None
    assert status.checkpoint.resumed_from_step == 60
    assert [(record.result, record.resumed_from_step) for record in status.history] == [
        ("Failed", None),
        ("Succeeded", 60),
    ]
    assert world.events() == ["Restarted"]


def test_no_attempt_starts_while_a_pod_of_the_former_lives(world: World) -> None:
    running(world)
    world.has(a_pod(0).failed(1), a_pod(1).being_deleted(), a_child_job().failed())
    world.later(60)
    world.settle()
    world.later(60)
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST]
    assert world.status().phase is Phase.RESTARTING
    world.gone(a_pod(1))
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST, SECOND]


def test_the_gate_does_not_trust_a_watch_that_is_behind(world: World) -> None:
    """The store has missed that a pod lives: the list before the start finds it."""
    running(world)
    world.has(a_pod(0).failed(75), a_pod(1).failed(75), a_child_job().failed_by_rule(4, 75))
    world.watch()
    world.has(a_pod(1))
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST]


def test_faults_of_the_program_wait_longer_each_time(world: World) -> None:
    running(world, a_job().with_nodes(2).with_policy(backoffLimit=3))
    delays = []
    for attempt in (1, 2, 3):
        world.has(a_pod(0).of_attempt(attempt).failed(1), a_child_job(attempt).failed_by_rule(8, 1))
        world.gone(a_pod(1).of_attempt(attempt))
        delay = world.settle()
        assert delay is not None
        delays.append(delay)
        world.later(delay)
        world.settle()
        world.has(a_pod(0).of_attempt(attempt + 1), a_pod(1).of_attempt(attempt + 1))
        world.settle()
    assert delays == [10, 20, 40]
    world.has(a_pod(0).of_attempt(4).failed(1), a_child_job(4).failed_by_rule(8, 1))
    world.settle()
    failure = world.status().failure
    assert world.status().phase is Phase.FAILED
    assert failure is not None
    assert failure.class_ is FailureClass.CODE_ERROR


def test_bad_configuration_is_final(world: World) -> None:
    running(world)
    said = Failure(class_=FailureClass.DATA_ERROR, reason="NoColumn", message="column x is not there", hint="use y")
    world.has(
        a_pod(0).failed(65, outcome=Outcome(outcome=Result.FAILED, failure=said)),
        a_child_job().failed_by_rule(1, 65),
    )
    world.settle()
    status = world.status()
    assert status.phase is Phase.FAILED
    assert status.failure == said.model_copy(
        update={"pod": a_pod(0).name, "node": "node-1", "rank": 0, "exit_code": 65}
    )
    assert conditions(world) == {"Ready": "False", "Stalled": "True", "Running": "False", "Failed": "True"}
    assert world.names(BATCH_JOB) == [FIRST]


def test_a_fault_is_told_while_other_pods_are_still_saving(world: World) -> None:
    running(world)
    world.has(a_pod(0).failed(78), a_pod(1).being_deleted(), a_child_job().failed_by_rule(6, 78).failing())
    world.settle()
    assert world.status().phase is Phase.FAILED


def test_the_checkpoint_of_a_pod_that_ended_last_counts(world: World) -> None:
    running(world)
    world.has(a_pod(1).failed(75).being_deleted(), a_child_job().failed_by_rule(4, 75).failing())
    world.settle()
    assert world.status().phase is Phase.RESTARTING
    saved = Outcome(outcome=Result.PREEMPTED, checkpoint=Checkpoint(step=70))
    world.has(a_pod(0).failed(75, outcome=saved), a_child_job().failed_by_rule(4, 75))
    world.settle()
    status = world.status()
    assert world.names(BATCH_JOB) == [FIRST, SECOND]
    assert status.checkpoint is not None
    assert status.checkpoint.step == 70


def test_a_runtime_that_comes_late_starts_the_job(world: World) -> None:
    world.user_applies(a_job().with_spec(runtimeRef={"name": "late"}))
    world.settle()
    status = world.status()
    assert status.phase is Phase.PENDING
    assert status.failure is not None
    assert status.failure.reason == "RuntimeNotFound"
    assert conditions(world) == {"Ready": "False", "Stalled": "True"}
    assert status.observed_generation == 1
    world.runtime("late", cpu=None)
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST]
    assert world.status().failure is None
    assert conditions(world) == {"Ready": "False", "Reconciling": "True"}


def test_a_spec_that_cannot_work_fails_at_once_and_an_edit_cures_it(world: World) -> None:
    bad = a_job().with_spec(podTemplate={"spec": {"hostNetwork": True}})
    world.user_applies(bad)
    world.settle()
    assert world.status().phase is Phase.FAILED
    assert world.written() == ["patch finetunejobs/status", "create events"]
    world.user_applies(bad.edited(podTemplate={"spec": {"hostNetwork": False}}))
    world.settle()
    assert (world.status().phase, world.status().run.index) == (Phase.PENDING, 1)  # type: ignore[union-attr]


def test_a_child_that_is_refused_for_good_is_told_and_not_asked_for_again(world: World) -> None:
    refuse(world, "create jobs", errors.Refused('Job.batch "x" is invalid: spec.template: no', final=True))
    world.user_applies(a_job())
    world.settle()
    status = world.status()
    assert (status.phase, status.attempt) == (Phase.FAILED, 0)
    assert status.failure is not None
    assert status.failure.reason == "ChildInvalid"
    assert "spec.template: no" in status.failure.message
    world.written()
    assert world.settle() is None
    assert world.written() == []


def test_a_child_that_is_refused_for_now_is_told_and_tried_again(world: World) -> None:
    refuse(world, "create jobs", errors.Refused("exceeded quota: gpus", final=False))
    world.user_applies(a_job())
    delays = [world.settle() for _ in range(6)]
    assert delays == [15, 30, 60, 120, 240, 300]
    assert (world.status().phase, conditions(world)) == (Phase.PENDING, {"Ready": "False", "Stalled": "True"})
    assert world.status().failure.reason == "QuotaExceeded"  # type: ignore[union-attr]
    world.cluster.before = lambda _: None
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST]
    assert conditions(world) == {"Ready": "False", "Reconciling": "True"}


def refuse(world: World, refused: str, error: errors.ClusterError) -> None:
    def before(write: str) -> None:
        if write == refused:
            raise error

    world.cluster.before = before


def test_an_object_of_the_same_name_is_ours_only_if_we_own_it(world: World) -> None:
    world.cluster.put(CONFIG_MAP, {"metadata": {"name": FIRST, "namespace": "team-a"}, "data": {}})
    world.user_applies(a_job())
    world.settle()
    failure = world.status().failure
    assert failure is not None
    assert f"ConfigMap {FIRST} exists and does not belong to the job" in failure.message
    assert world.names(BATCH_JOB) == []


def test_suspend_ends_the_pods_and_resume_costs_no_budget(world: World) -> None:
    running(world)
    job = a_job().with_nodes(2)
    world.user_applies(job.edited(runPolicy={"suspend": True}))
    world.settle()
    assert world.names(BATCH_JOB) == []
    assert conditions(world) == {"Ready": "True", "Running": "False", "Suspended": "True"}
    world.has(a_pod(0).being_deleted(), a_pod(1).being_deleted())
    world.user_applies(job.edited(runPolicy={"suspend": False}).edited())
    world.settle()
    assert world.names(BATCH_JOB) == []
    world.gone(a_pod(0), a_pod(1))
    world.settle()
    assert world.names(BATCH_JOB) == [SECOND]
    status = world.status()
    assert (status.phase, status.attempt) == (Phase.PENDING, 2)
    assert status.restarts is not None
    assert status.restarts.total == 0
    assert world.events() == ["Suspended"]


def test_a_job_that_begins_suspended_makes_nothing(world: World) -> None:
    world.user_applies(a_job().suspended())
    world.settle()
    assert world.status().phase is Phase.SUSPENDED
    assert world.names(BATCH_JOB) == []


def test_an_edit_waits_for_the_end_of_the_run(world: World) -> None:
    job = a_job().with_nodes(2)
    running(world)
    world.user_applies(job.edited(training={"seed": 7}))
    world.settle()
    assert conditions(world) == {"Ready": "True", "Running": "True", "SpecChanged": "True"}
    finished(world)
    status = world.status()
    assert status.run is not None
    assert (status.run.index, status.run.generation, status.attempt, status.phase) == (2, 2, 1, Phase.PENDING)
    assert "reviews-0a1b2-r2a1" in world.names(BATCH_JOB)
    assert "SpecChanged" not in conditions(world)
    assert status.metrics == {}
    assert status.output is None


def test_an_edit_that_is_ignored_is_shown_after_the_end(world: World) -> None:
    job = a_job().with_nodes(2).with_policy(onSpecChange="Ignore")
    running(world, job)
    finished(world)
    world.user_applies(job.edited(training={"seed": 7}))
    world.settle()
    assert world.names(BATCH_JOB) == [FIRST]
    assert conditions(world)["SpecChanged"] == "True"
    assert world.status().observed_generation == 2


def test_a_restart_repeats_the_run_as_it_began(world: World) -> None:
    """An edit during the run and another runtime do not reach its later attempts."""
    running(world)
    world.user_applies(a_job().with_nodes(2).edited(training={"seed": 7}, trainer={"image": "other:1"}))
    world.runtime(image="trainer:2")
    world.restart_operator()
    world.has(a_pod(0).failed(75), a_pod(1).failed(75), a_child_job().failed_by_rule(4, 75))
    world.settle()
    first, second = (world.cluster.objects[CONFIG_MAP, "team-a", name]["data"] for name in (FIRST, SECOND))
    assert first["runtime.json"] == second["runtime.json"]
    assert first["run.json"].replace('"attempt": 1', '"attempt": 2') == second["run.json"]


def test_a_run_whose_config_map_was_deleted_is_planned_again(world: World) -> None:
    running(world)
    del world.cluster.objects[CONFIG_MAP, "team-a", FIRST]
    world.restart_operator()
    world.has(a_pod(0).failed(75), a_pod(1).failed(75), a_child_job().failed_by_rule(4, 75))
    world.settle()
    assert world.names(CONFIG_MAP) == [SECOND]


def test_a_deleted_child_job_is_an_attempt_that_is_over(world: World) -> None:
    running(world)
    del world.cluster.objects[BATCH_JOB, "team-a", FIRST]
    world.gone(a_pod(0), a_pod(1))
    world.settle()
    assert world.names(BATCH_JOB) == [SECOND]
    assert world.status().restarts.infra == 1  # type: ignore[union-attr]


def test_a_silent_node_ends_the_attempt_after_a_while(world: World) -> None:
    running(world)
    silent = {"type": "Ready", "status": "Unknown", "lastTransitionTime": world.now}
    world.cluster.put(NODE, {"metadata": {"name": "node-1"}, "status": {"conditions": [silent]}})
    world.has(a_pod(0).not_ready(), a_pod(1).not_ready())
    world.later(60)
    world.settle()
    assert world.settle() == 60
    assert world.names(BATCH_JOB) == [FIRST]
    world.later(60)
    world.settle()
    assert world.names(BATCH_JOB) == [SECOND]
    record = world.status().history[-1]
    assert (record.reason, record.node) == ("NodeLost", "node-1")


def test_ttl_removes_the_children_and_never_the_job(world: World) -> None:
    running(world, a_job().with_nodes(2).with_policy(ttlSecondsAfterFinished=60))
    finished(world)
    assert world.settle() == 60
    world.later(60)
    world.settle()
    assert [world.names(kind) for kind in (BATCH_JOB, SERVICE, CONFIG_MAP)] == [[], [], []]
    assert world.names(JOB) == ["reviews"]
    world.written()
    world.gone(a_pod(0), a_pod(1))
    world.later(600)
    world.settle()
    assert world.status().phase is Phase.SUCCEEDED
    assert world.written() == []


def test_progress_is_written_at_most_once_in_fifteen_seconds(world: World) -> None:
    running(world)
    for step in range(1, 61):
        world.reconciler.take_report(KEY, Report(1, 1, Progress(step=step), Checkpoint(), {}))
        world.settle()
        world.later(1)
    assert world.written() == ["patch finetunejobs/status"] * 3


def test_a_report_of_a_former_attempt_is_not_taken(world: World) -> None:
    running(world)
    world.reconciler.take_report(KEY, Report(1, 7, Progress(step=60), Checkpoint(), {}))
    world.later(60)
    world.settle()
    assert world.status().progress is None


def test_somebody_elses_write_is_not_overwritten(world: World) -> None:
    running(world)
    world.has(a_pod(0).failed(78), a_child_job().failed_by_rule(6, 78))
    world.watch()
    world.user_applies(a_job().with_nodes(2).edited(runPolicy={"backoffLimit": 9}))
    with pytest.raises(errors.Conflict):
        finish(world.reconciler.reconcile(KEY))
    world.settle()
    assert (world.status().phase, world.status().observed_generation) == (Phase.FAILED, 2)


def test_children_of_a_deleted_job_of_the_same_name_are_not_taken_for_ours(world: World) -> None:
    running(world)
    world.cluster.objects.pop((JOB, "team-a", "reviews"))
    world.settle()
    world.user_applies(a_job(uid=UID.replace("0a1b2c3d", "9f8e7d6c")))
    world.settle()
    assert "reviews-9f8e7-r1a1" in world.names(BATCH_JOB)
    assert world.status().nodes.ready == 0  # type: ignore[union-attr]


def test_a_job_that_is_being_deleted_is_left_alone(world: World) -> None:
    body = a_job().manifest
    body["metadata"]["deletionTimestamp"] = world.now
    world.cluster.put(JOB, body)
    world.settle()
    assert world.written() == []


WRITES_OF_LIFE = 11
Fault = Callable[[FakeCluster, Callable[[str], None]], None]


def before_commit(cluster: FakeCluster, crash: Callable[[str], None]) -> None:
    cluster.before = crash


def after_commit(cluster: FakeCluster, crash: Callable[[str], None]) -> None:
    cluster.after = crash


def life(world: World, crash_at: int | None, fault: Fault, error: type[BaseException]) -> None:
    """A job that is preempted once and then succeeds; the operator dies, or loses a reply, at the n-th write."""
    count = 0

    def crash(write: str) -> None:
        nonlocal count
        count += 1
        if count == crash_at:
            raise error(write)

    fault(world.cluster, crash)

    def settle() -> None:
        for _ in range(3):
            try:
                world.settle()
            except (Crash, errors.Unreachable):
                world.restart_operator()
            else:
                return

    world.user_applies(a_job().with_nodes(2))
    settle()
    world.has(a_pod(0), a_pod(1))
    settle()
    world.has(a_pod(0).failed(75), a_pod(1).failed(75), a_child_job(1).failed_by_rule(4, 75))
    settle()
    world.has(a_pod(0).of_attempt(2), a_pod(1).of_attempt(2))
    settle()
    world.has(a_pod(0).of_attempt(2).succeeded(DONE), a_pod(1).of_attempt(2).succeeded(), a_child_job(2).complete())
    settle()


def end_state(world: World) -> dict[str, object]:
    kinds: tuple[Kind, ...] = (BATCH_JOB, SERVICE, CONFIG_MAP)
    return {"status": world.status(), **{kind.plural: world.names(kind) for kind in kinds}}


@pytest.fixture(scope="module")
def undisturbed() -> World:
    world = World()
    world.runtime(image="trainer:1")
    life(world, None, before_commit, Crash)
    assert len(world.cluster.writes) == WRITES_OF_LIFE
    return world


@pytest.mark.parametrize("fault", [before_commit, after_commit])
@pytest.mark.parametrize("error", [Crash, errors.Unreachable])
@pytest.mark.parametrize("crash_at", range(1, WRITES_OF_LIFE + 1))
def test_a_crash_at_any_write_changes_nothing_in_the_end(
    world: World, undisturbed: World, crash_at: int, fault: Fault, error: type[BaseException]
) -> None:
    life(world, crash_at, fault, error)
    assert end_state(world) == end_state(undisturbed)


def test_an_event_that_cannot_be_written_holds_nothing_up(world: World) -> None:
    refuse(world, "create events", errors.Refused("no", final=False))
    finished(running(world))
    assert world.status().phase is Phase.SUCCEEDED
    assert world.names(EVENT) == []


def test_stalled_is_never_left_behind(world: World) -> None:
    world.user_applies(a_job().with_spec(runtimeRef={"name": "late"}))
    world.settle()
    world.runtime("late")
    world.settle()
    world.has(a_pod(0))
    world.settle()
    assert ConditionType.STALLED not in {item.type for item in world.status().conditions}
