"""Random lives of a job, with faults of everything at once: what must hold holds after every step.

The operator sees the cluster through watches that may be behind, and may die between any two writes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.status import TERMINAL, Phase, Status
from finetune_operator.core.job import read_status
from finetune_operator.shell import errors
from finetune_operator.shell.cluster import BATCH_JOB, JOB, Kind, Manifest
from finetune_operator.shell.store import WATCHED, Key
from support.builders import AJob, a_job
from support.controllers import Controllers
from support.fakes import Crash, FakeCluster, World, finish
from support.kstatus import kstatus, right_answer

KEY = Key("team-a", "reviews")
LIMITS = {"backoffLimit": 2, "infraBackoffLimit": 3}
HANDLING = {**LIMITS, "startTimeoutSeconds": 900, "nodeLostSeconds": 60}
CODES = (1, 1, 1, 69, 70, 75, 75, 78, 137, 139, 139, 143, 65)
MINUTES = (1, 20, 90, 400, 1000, 4000)


class Recorder(FakeCluster):
    """Keeps every status that was ever written, with the object that it was written to."""

    seen: list[Manifest]

    async def patch_status(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        body = await super().patch_status(kind, namespace, name, patch)
        self.seen.append(body)
        return body


class Life(RuleBasedStateMachine):
    @initialize(
        nodes=st.integers(1, 3),
        elastic=st.sampled_from([{}, {"minNodes": 1, "waitSeconds": 30}, {"minNodes": 1, "grow": True}]),
        deadline=st.sampled_from([None, 3000]),
        queue=st.sampled_from([False, False, False, True]),
        rules=st.sampled_from(
            [
                [],
                [{"name": "again", "onExitCodes": [78], "action": "Restart"}],
                [{"name": "elsewhere", "onExitCodes": [139], "action": "ExcludeNode"}],
                [{"name": "enough", "onReasons": ["CodeError"], "action": "Fail"}],
            ]
        ),
    )
    def apply(self, nodes: int, elastic: dict[str, Any], deadline: int | None, queue: bool, rules: list[Any]) -> None:
        self.world = World()
        self.cluster = Recorder(clock=lambda: self.world.now)
        self.cluster.seen = []
        self.world.cluster = self.cluster
        self.controllers = Controllers(self.world)
        self.restart_operator()
        self.world.runtime(image="trainer:1")
        policy = {**HANDLING, "rules": rules} | ({"activeDeadlineSeconds": deadline} if deadline else {})
        scheduling = {"queueName": "team"} if queue else {}
        self.job: AJob = a_job().with_nodes(nodes).with_spec(elastic=elastic, scheduling=scheduling)
        self.job = self.job.with_policy(**policy)
        self.world.user_applies(self.job)
        self.best: tuple[int, int] = (0, 0)
        self.ended: dict[int, Phase] = {}

    # The operator

    def restart_operator(self) -> None:
        self.world.restart_operator()
        self.cluster.before = self.cluster.after = lambda _: None
        self.world.watch()

    def reconcile(self) -> None:
        try:
            finish(self.world.reconciler.reconcile(KEY))
        except errors.Conflict:
            finish(self.world.reconciler.refresh_job(KEY))

    @rule(known=st.sets(st.sampled_from(WATCHED)))
    def operator_looks(self, known: set[Kind]) -> None:
        """A pass after only some of the watches have caught up."""
        self.world.watch(tuple(kind for kind in WATCHED if kind in known))
        self.reconcile()

    @rule()
    def operator_settles(self) -> None:
        self.world.watch()
        self.reconcile()

    @rule(write=st.integers(1, 4), lost_reply=st.booleans())
    def operator_dies(self, write: int, lost_reply: bool) -> None:
        """It dies just before, or just after, its next writes; the next one knows only what the API server has."""
        left = write

        def die(_: str) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise Crash

        if lost_reply:
            self.cluster.after = die
        else:
            self.cluster.before = die
        self.world.watch()
        with suppress(Crash):
            self.reconcile()
        self.restart_operator()

    # Everything else

    @rule(rounds=st.integers(1, 8), seconds=st.sampled_from([1, 15, 60]))
    def all_goes_on(self, rounds: int, seconds: int) -> None:
        """Everybody does their work, so that faults meet jobs that run."""
        self.controllers.hold_back(False)
        for _ in range(rounds):
            self.controllers.step()
            self.controllers.start_pods()
            self.controllers.end_terminating()
            self.operator_settles()
            self.world.later(seconds)
            self.at_most_one_gang_lives()

    @precondition(lambda self: self.controllers.live())
    @rule(code=st.sampled_from(CODES), known=st.sets(st.sampled_from(WATCHED)))
    def a_gang_fails_while_the_watches_are_behind(self, code: int, known: set[Kind]) -> None:
        """One pod fails, its Job takes the others, and the operator learns of it in pieces."""
        self.controllers.end(self.controllers.live()[0], code)
        self.controllers.step()
        self.operator_looks(known)
        self.controllers.step()
        self.operator_settles()
        self.world.later(20)
        self.operator_looks(known)
        self.controllers.step()

    @rule(rounds=st.integers(1, 3))
    def controllers_work(self, rounds: int) -> None:
        for _ in range(rounds):
            self.controllers.step()
            self.controllers.start_pods()

    @rule()
    def kubelets_end_what_is_terminating(self) -> None:
        self.controllers.end_terminating()
        self.controllers.step()

    @precondition(lambda self: self.controllers.live())
    @rule(code=st.sampled_from(CODES), data=st.data())
    def a_pod_fails(self, code: int, data: st.DataObject) -> None:
        self.controllers.end(data.draw(st.sampled_from(self.controllers.live())), code)

    @precondition(lambda self: self.controllers.pods())
    @rule()
    def all_pods_end_well(self) -> None:
        for pod in self.controllers.pods():
            if pod["status"]["phase"] == "Running":
                self.controllers.end(pod, 0)
        self.controllers.step()

    @precondition(lambda self: self.controllers.live())
    @rule(data=st.data())
    def somebody_deletes_a_pod(self, data: st.DataObject) -> None:
        self.controllers.delete_pod(data.draw(st.sampled_from(self.controllers.live())))

    @precondition(lambda self: self.cluster.of(BATCH_JOB))
    @rule(data=st.data())
    def somebody_deletes_a_child_job(self, data: st.DataObject) -> None:
        metadata = data.draw(st.sampled_from(self.cluster.of(BATCH_JOB)))["metadata"]
        self.cluster.objects.pop((BATCH_JOB, metadata["namespace"], metadata["name"]))

    @rule(node=st.sampled_from(["node-1", "node-2"]), ready=st.booleans())
    def a_node_falls_silent_or_comes_back(self, node: str, ready: bool) -> None:
        if self.controllers.is_ready(node) is not ready:
            self.controllers.node(node, ready=ready)

    @rule(held=st.booleans())
    def the_queue_holds_back_or_lets_go(self, held: bool) -> None:
        self.controllers.hold_back(held)
        self.controllers.step()

    @rule(seconds=st.sampled_from(MINUTES))
    def time_passes(self, seconds: int) -> None:
        self.world.later(seconds)

    @rule(rounds=st.integers(0, 3), resumes=st.sampled_from([True, True, False]))
    def the_user_suspends_and_mostly_resumes(self, rounds: int, resumes: bool) -> None:
        self.user_wants(suspended=True)
        for _ in range(rounds):
            self.operator_settles()
            self.controllers.step()
        if resumes:
            self.user_wants(suspended=False)

    def user_wants(self, *, suspended: bool) -> None:
        self.job = self.job.edited(runPolicy={"suspend": suspended})
        self.world.user_applies(self.job)

    @rule(seed=st.integers(1, 3))
    def the_user_edits_what_defines_the_run(self, seed: int) -> None:
        self.job = self.job.edited(training={"seed": seed})
        self.world.user_applies(self.job)

    # What holds

    @property
    def manifest(self) -> Manifest:
        return self.cluster.objects[JOB, KEY.namespace, KEY.name]

    @property
    def status(self) -> Status:
        return read_status(self.manifest.get("status") or {})

    @invariant()
    def at_most_one_gang_lives(self) -> None:
        assert len(self.controllers.gangs()) <= 1

    @invariant()
    def attempts_never_go_back(self) -> None:
        status = self.status
        now = (status.run.index if status.run else 0, status.attempt or 0)
        assert now >= self.best
        self.best = now

    @invariant()
    def the_end_is_the_end(self) -> None:
        """A run that has ended stays so; only an edit of what defines it begins another."""
        status = self.status
        if status.run is None or not status.attempt:
            return
        if status.run.index in self.ended:
            assert status.phase is self.ended[status.run.index]
        elif status.phase in TERMINAL:
            self.ended[status.run.index] = status.phase

    @invariant()
    def budgets_hold(self) -> None:
        restarts = self.status.restarts
        if restarts is not None:
            assert restarts.program <= LIMITS["backoffLimit"]
            assert restarts.infra <= LIMITS["infraBackoffLimit"]

    @invariant()
    def observed_generation_is_never_ahead_of_what_was_done(self) -> None:
        status, generation = self.status, self.manifest["metadata"]["generation"]
        assert (status.observed_generation or 0) <= generation
        suspended = self.manifest["spec"]["runPolicy"].get("suspend")
        if suspended and status.observed_generation == generation:
            assert status.phase in {Phase.SUSPENDED, *TERMINAL}

    @invariant()
    def each_status_ever_written_gets_the_right_answer_from_kstatus(self) -> None:
        for body in self.cluster.seen:
            status = read_status(body["status"])
            assert status.observed_generation == body["metadata"]["generation"]
            assert kstatus(body) == right_answer(status), status
        self.cluster.seen.clear()

    def teardown(self) -> None:
        """Once faults stop, the job comes to its end: nothing waits, or is tried again, for ever."""
        if not hasattr(self, "job"):
            return
        self.user_wants(suspended=False)
        for node in self.controllers.nodes:
            self.controllers.node(node, ready=True)
        for _ in range(60):
            self.controllers.hold_back(False)
            self.controllers_work(2)
            self.kubelets_end_what_is_terminating()
            self.operator_settles()
            if self.status.phase is Phase.RUNNING:
                self.all_pods_end_well()
            self.world.later(30)
            self.at_most_one_gang_lives()
            if self.status.phase in TERMINAL:
                return
        left = [(pod["metadata"], pod["status"]["phase"]) for pod in self.controllers.pods()]
        raise AssertionError(f"the job does not end: {self.status}\n{self.cluster.of(BATCH_JOB)}\n{left}")


# A history of forty steps takes minutes to shrink, and is short enough to read as it is.
Life.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    phases=(Stage.explicit, Stage.reuse, Stage.generate),
    suppress_health_check=list(HealthCheck),
)
TestLife = Life.TestCase
