"""One pass over one job: gather, think, carry out, write the status once, tell of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_api.names import API_VERSION, DEFAULT_RUNTIME, LABEL_JOB, MANAGER, attempt_name, uid5
from finetune_api.status import TERMINAL, Phase, Status
from finetune_operator.core import plan as planning
from finetune_operator.core.decide import decide
from finetune_operator.core.decision import Decision, refused_by_server
from finetune_operator.core.job import CurrentRun, Job, current_run, read_job
from finetune_operator.core.manifests import fetch_manifests, manifests
from finetune_operator.core.observe import Children, NodeHealth, Observed, nodes_in_doubt, observe
from finetune_operator.core.plan import Plan, Refused, Runtime, Runtimes, thaw
from finetune_operator.core.pod import Endpoint
from finetune_operator.core.report import Report
from finetune_operator.core.situation import Situation
from finetune_operator.core.status import EVENTS, WRITE_SECONDS, Transition, merge_patch, status, transitions, write_in
from finetune_operator.core.times import seconds
from finetune_operator.shell import errors
from finetune_operator.shell.cluster import (
    BATCH_JOB,
    CHILD_KINDS,
    CONFIG_MAP,
    EVENT,
    JOB,
    NODE,
    POD,
    POD_GROUP,
    RUNTIME,
    SERVICE,
    WORKLOAD,
    Cluster,
    Kind,
    Manifest,
)
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.store import Key, Store

log = logging.getLogger(__name__)

LONG_AGO = "1970-01-01T00:00:00Z"
FIRST_REFUSED_SECONDS, MAX_REFUSED_SECONDS = 15.0, 300.0
LOOK_SECONDS = 10.0
"""How long what Events told counts; they are read only while pods do not start."""


@dataclass
class Memory:
    """What is known of a job between two passes and is not in the cluster; losing it costs a read or a write."""

    plan: Plan | None = None
    report: Report | None = None
    written_at: float | None = None
    refusals: int = 0
    """How often in a row the API server refused a child."""
    events: tuple[Manifest, ...] = ()
    looked_at: float | None = None
    step: tuple[int, int, int | None] | None = None
    """Run, attempt and step, as last told, and since when."""
    stepped_at: str | None = None


@dataclass
class Reconciler:
    cluster: Cluster
    store: Store
    metrics: Metrics
    endpoint: Endpoint
    namespace: str
    """The operator's own."""
    clock: Callable[[], str]
    optional: frozenset[Kind] = frozenset()
    """Kinds of other projects that this cluster serves."""
    memories: dict[Key, Memory] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Look at one job. Returns the seconds after which to look again, if nothing happens before."""
        manifest = self.store.get(JOB, key)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            self.memories.pop(key, None)
            return None
        job, now = read_job(manifest), self.clock()
        situation = await self._situation(key, job, now)
        decision = decide(situation)
        if decision.look:
            await self._look(key, situation)
            situation = await self._situation(key, job, now)
            decision = decide(situation)
        if decision.confirm:
            await self._refresh(key)
            situation = await self._situation(key, job, now)
            decision = decide(situation)
        decision = await self._carry_out(key, job, decision)
        new = status(situation, decision, self._memory(key).report)
        again = await self._write(key, job, new, now)
        self.store.settle(key, situation.index, new.attempt or 0)
        if new.phase in TERMINAL:
            self.memories.pop(key, None)
        if new.phase is not job.status.phase and decision.requeue_after is None:
            return 0.0
        return _soonest(again, decision.requeue_after)

    def take_report(self, key: Key, report: Report) -> float:
        """Keep what a pod said of its progress. Returns the seconds until a pass may write it."""
        memory = self._memory(key)
        memory.report = report
        age = WRITE_SECONDS if memory.written_at is None else seconds(self.clock()) - memory.written_at
        return max(0.0, WRITE_SECONDS - age)

    async def refresh_job(self, key: Key) -> None:
        """Read the job again: somebody wrote it, or it is gone."""
        known, manifest = self.store.get(JOB, key), await self.cluster.get(JOB, key.namespace, key.name)
        if manifest is not None:
            self.store.put(JOB, manifest)
        elif known is not None:
            self.store.remove(JOB, known)

    def _memory(self, key: Key) -> Memory:
        return self.memories.setdefault(key, Memory())

    async def _situation(self, key: Key, job: Job, now: str) -> Situation:
        observed = observe(await self._children(key, job), now, job.policy.node_lost_seconds)
        current = current_run(job, _begun(observed))
        plan = await self._plan(key, job, current)
        return Situation(job, current, plan, observed, now, self._stepped_at(key, job, current, now))

    def _stepped_at(self, key: Key, job: Job, current: CurrentRun, now: str) -> str | None:
        """When the current attempt was last seen at another step; None where no step was ever told."""
        memory, told = self._memory(key), job.status.progress
        report = memory.report
        own = report is not None and (report.run, report.attempt) == (current.run.index, current.attempt)
        step = report.progress.step if own and report else told.step if told else None
        if job.status.phase is not Phase.RUNNING or step is None:
            memory.step = memory.stepped_at = None
            return None
        if memory.step != (mark := (current.run.index, current.attempt, step)):
            memory.step, memory.stepped_at = mark, now
        return memory.stepped_at

    async def _look(self, key: Key, situation: Situation) -> None:
        """Read the warnings about the current attempt's children, unless that was done just now."""
        memory, now = self._memory(key), seconds(situation.now)
        if memory.looked_at is not None and now - memory.looked_at < LOOK_SECONDS:
            return
        try:
            listing = await self.cluster.list(EVENT, key.namespace, fields="type=Warning")
        except errors.Refused as error:
            log.warning("Events cannot be read: %s", error, extra={"job": str(key)})
            return
        memory.looked_at = now
        names = ((body, body["involvedObject"].get("name", "")) for body in listing.items)
        own = (situation.name, f"{situation.name}-")
        memory.events = tuple(body for body, name in names if name == own[0] or name.startswith(own[1]))

    async def _children(self, key: Key, job: Job) -> Children:
        """The job's children; those of a deleted job of the same name are left out."""
        prefix = f"{job.name}-{uid5(job.uid)}-"

        def own(bodies: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
            return tuple(body for body in bodies if body["metadata"]["name"].startswith(prefix))

        pods = own(self.store.children(POD, key))
        nodes = {name: await self._node(name) for name in nodes_in_doubt(pods)}
        return Children(
            jobs=own(self.store.children(BATCH_JOB, key)),
            pods=pods,
            gone=own(self.store.gone(key)),
            nodes=nodes,
            workloads=self.store.children(WORKLOAD, key),
            events=self._memory(key).events,
        )

    async def _node(self, name: str) -> NodeHealth:
        try:
            node = await self.cluster.get(NODE, None, name)
        except errors.Refused:
            return NodeHealth(ready=True, since=LONG_AGO)
        if node is None:
            return NodeHealth(ready=False, since=LONG_AGO)
        conditions = node.get("status", {}).get("conditions", [])
        ready: Manifest = next((condition for condition in conditions if condition["type"] == "Ready"), {})
        return NodeHealth(ready.get("status") == "True", ready.get("lastTransitionTime", LONG_AGO))

    async def _refresh(self, key: Key) -> None:
        selector = f"{LABEL_JOB}={key.name}"
        for kind in (BATCH_JOB, POD):
            self.store.replace(kind, await self.cluster.list(kind, key.namespace, selector), within=key)

    async def _plan(self, key: Key, job: Job, current: CurrentRun) -> Plan | Refused | None:
        if not current.started:
            return planning.plan(job, current.run.index, self._runtimes(job))
        if job.status.phase in TERMINAL:
            return None
        memory = self._memory(key)
        name = attempt_name(job.name, job.uid, current.run.index, current.attempt)
        if memory.plan is None or memory.plan.name != name:
            memory.plan = await self._frozen(job.namespace, name)
        if memory.plan is not None:
            return memory.plan
        made = planning.plan(job, current.run.index, self._runtimes(job))
        return made.with_attempt(current.attempt) if isinstance(made, Plan) else made

    async def _frozen(self, namespace: str, name: str) -> Plan | None:
        """The plan that the attempt was started with, unless its ConfigMap was deleted."""
        config = await self.cluster.get(CONFIG_MAP, namespace, name)
        return thaw(config["data"]) if config else None

    def _runtimes(self, job: Job) -> Runtimes:
        name = planning.wanted_runtime(job)
        named = self._runtime(job.namespace, name) or self._runtime(self.namespace, name)
        default = self._runtime(self.namespace, DEFAULT_RUNTIME)
        return Runtimes(default=default, named=named, operator_namespace=self.namespace)

    def _runtime(self, namespace: str, name: str) -> Runtime | None:
        body = self.store.get(RUNTIME, Key(namespace, name))
        return Runtime(namespace, name, body["spec"]) if body else None

    async def _carry_out(self, key: Key, job: Job, decision: Decision) -> Decision:
        """Do what was decided; what the API server refuses becomes part of the decision."""
        for name in decision.clean:
            for kind in (SERVICE, CONFIG_MAP, *(self.optional & {POD_GROUP})):
                await self.cluster.delete(kind, key.namespace, name)
        for name in (*decision.stop, *decision.clean):
            await self._delete_job(key, name)
        if decision.start is None:
            return decision
        try:
            started = await self._start(job, decision.start, fetch=decision.fetch)
        except errors.Refused as refused:
            return self._refused(key, decision, refused)
        memory = self._memory(key)
        memory.plan, memory.refusals, memory.events, memory.looked_at = started, 0, (), None
        return replace(decision, start=started)

    def _refused(self, key: Key, decision: Decision, error: errors.Refused) -> Decision:
        memory = self._memory(key)
        again = min(MAX_REFUSED_SECONDS, FIRST_REFUSED_SECONDS * 2.0 ** min(memory.refusals, 16))
        memory.refusals += 1
        said = refused_by_server(decision, str(error), final=error.final)
        return said if error.final else replace(said, requeue_after=again)

    async def _delete_job(self, key: Key, name: str) -> None:
        await self.cluster.delete(BATCH_JOB, key.namespace, name)
        for body in self.store.children(BATCH_JOB, key):
            if body["metadata"]["name"] == name:
                self.store.remove(BATCH_JOB, body)

    async def _start(self, job: Job, plan: Plan, *, fetch: bool) -> Plan:
        """Create the children of an attempt. After a crash in between, the plan that was frozen first counts."""
        made_from = fetch_manifests if fetch else manifests
        config_map = await self._create(job, made_from(plan, self.endpoint)[0])
        plan = replace(thaw(config_map["data"]), excluded=plan.excluded, avoided=plan.avoided)
        for manifest in made_from(plan, self.endpoint)[1:]:
            if manifest["kind"] == "Service" and plan.attempt > 1 and await self._existing(job, SERVICE, manifest):
                continue
            made = await self._create(job, manifest)
            if manifest["kind"] == "Job":
                self.store.put(BATCH_JOB, made)
        return plan

    async def _create(self, job: Job, manifest: Manifest) -> Manifest:
        kind, name = CHILD_KINDS[manifest["kind"]], manifest["metadata"]["name"]
        try:
            return await self.cluster.create(kind, manifest)
        except errors.NotFound as error:
            message = f"{manifest['kind']} {name} cannot be made, {kind.api_version} is not served here: {error}"
            raise errors.Refused(message, final=False) from error
        except errors.Conflict:
            existing = await self._existing(job, kind, manifest)
        if existing is None:
            raise errors.Conflict(f"{manifest['kind']} {name} was there and is gone")
        return existing

    async def _existing(self, job: Job, kind: Kind, manifest: Manifest) -> Manifest | None:
        """The object of this name, which must be the job's."""
        name = manifest["metadata"]["name"]
        existing = await self.cluster.get(kind, job.namespace, name)
        owners = existing["metadata"].get("ownerReferences", []) if existing else []
        if existing and not any(owner["uid"] == job.uid and owner.get("controller") for owner in owners):
            raise errors.Refused(f"{manifest['kind']} {name} exists and does not belong to the job", final=False)
        return existing

    async def _write(self, key: Key, job: Job, new: Status, now: str) -> float | None:
        """Write the status if it says something new. Returns the seconds until a write that waits is due."""
        memory = self._memory(key)
        age = None if memory.written_at is None else seconds(now) - memory.written_at
        wait = write_in(job.status, new, age)
        if wait != 0.0:
            return wait
        patch = merge_patch(job.status.to_dict(), new.to_dict())
        if not patch:
            return None
        body = {"metadata": {"resourceVersion": job.version}, "status": patch}
        self.store.put(JOB, await self.cluster.patch_status(JOB, key.namespace, key.name, body))
        memory.written_at = seconds(now)
        for transition in transitions(job.status, new):
            await self._announce(job, new, transition, now)
        return None

    async def _announce(self, job: Job, new: Status, transition: Transition, now: str) -> None:
        self.metrics.count_transition(transition)
        if transition.happening not in EVENTS:
            return
        fields = {"job": job.key, "run": new.run.index if new.run else None, "attempt": new.attempt}
        log.info("%s: %s", transition.happening, transition.message, extra=fields)
        try:
            await self.cluster.create(EVENT, event(job, transition, now))
        except errors.ClusterError as error:
            log.warning("an Event could not be written: %s", error, extra=fields)


def _begun(observed: Observed) -> set[tuple[int, int]]:
    downloads = observed.fetching.jobs if observed.fetching else ()
    return {(child.run, child.attempt) for child in (*observed.jobs, *downloads)}


def event(job: Job, transition: Transition, now: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{job.name}.", "namespace": job.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "FineTuneJob",
            "namespace": job.namespace,
            "name": job.name,
            "uid": job.uid,
        },
        "type": transition.type,
        "reason": str(transition.happening),
        "message": transition.message[:1024],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _soonest(*delays: float | None) -> float | None:
    return min((delay for delay in delays if delay is not None), default=None)
