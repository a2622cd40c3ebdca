"""`scheduled`: what queues, gangs, topology, priority and faulty nodes add to an attempt's Job, and nothing else."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from finetune_api.placement import Gang, Scheduling
from finetune_operator.core.layers import merge
from finetune_operator.core.manifests import manifests
from finetune_operator.core.plan import Plan
from finetune_operator.core.scheduling import gang, rendezvous_host, scheduled
from support.builders import ENDPOINT, AJob, a_job

NAME = "reviews-0a1b2-r1a1"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
RACK = "cloud.provider.com/topology-rack"

Part = dict[str, Any]


def job_of(plan: Plan) -> Part:
    return manifests(plan, ENDPOINT)[-1]


def unplaced(plan: Plan) -> Part:
    """The Job as if its plan asked nothing of who places it. What its queue suspends has no podFailurePolicy."""
    job = job_of(replace(plan, scheduling=Scheduling(gang=Gang.NONE), excluded=(), avoided=()))
    if gang(plan) is Gang.KUEUE:
        del job["spec"]["podFailurePolicy"]
    return job


def plan_of(job: AJob, scheduling: Part | None = None, pod: Part | None = None) -> Plan:
    return job.with_spec(scheduling=scheduling or {}, podTemplate={"spec": pod or {}}).plan()


def in_template(spec: Part | None = None, **metadata: Part) -> Part:
    return {"spec": {"template": {"spec": spec or {}, "metadata": metadata}}}


def near(strength: str, *terms: Part) -> Part:
    return in_template({"affinity": {"podAffinity": {strength: list(terms)}}})


PEERS = {"labelSelector": {"matchLabels": {"batch.kubernetes.io/job-name": NAME}}, "topologyKey": RACK}
CACHE_SERVER = {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "kubernetes.io/hostname"}
QUEUED = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "team-a"}}, "spec": {"suspend": True}}
VOLCANO = merge(
    {"metadata": {"annotations": {"scheduling.volcano.sh/group-min-member": "2"}}},
    in_template({"schedulerName": "volcano"}),
)
COSCHEDULED = in_template(
    {"schedulerName": "scheduler-plugins-scheduler"}, labels={"scheduling.x-k8s.io/pod-group": NAME}
)

TWO = a_job().with_nodes(2)


@pytest.mark.parametrize(
    ("plan", "added"),
    [
        pytest.param(plan_of(TWO), {}, id="nothing asked for"),
        pytest.param(plan_of(TWO, {"queueName": "team-a"}), QUEUED, id="a queue is Kueue's"),
        pytest.param(
            plan_of(TWO, {"gang": "Kueue"}),
            merge(QUEUED, {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "default"}}}),
            id="Kueue without a queue takes its default one",
        ),
        pytest.param(plan_of(TWO, {"queueName": "team-a", "gang": "None"}), {}, id="a queue, but no gang"),
        pytest.param(
            plan_of(TWO, {"queueName": "team-a", "topology": {"required": RACK}}),
            merge(QUEUED, in_template(annotations={"kueue.x-k8s.io/podset-required-topology": RACK})),
            id="Kueue counts the room of a rack",
        ),
        pytest.param(
            plan_of(TWO, {"queueName": "team-a", "topology": {"preferred": RACK}}),
            merge(QUEUED, in_template(annotations={"kueue.x-k8s.io/podset-preferred-topology": RACK})),
            id="Kueue prefers a rack",
        ),
        pytest.param(
            plan_of(a_job(), {"queueName": "team-a", "topology": {"required": RACK}}), QUEUED, id="one pod has no peers"
        ),
        pytest.param(plan_of(TWO, {"gang": "Volcano"}), VOLCANO, id="Volcano"),
        pytest.param(
            plan_of(TWO, {"gang": "Volcano", "queueName": "gold"}),
            merge(VOLCANO, in_template(annotations={"scheduling.volcano.sh/queue-name": "gold"})),
            id="Volcano with a queue",
        ),
        pytest.param(
            plan_of(TWO, pod={"schedulerName": "volcano"}),
            VOLCANO,
            id="Volcano, as the podTemplate names its scheduler",
        ),
        pytest.param(
            plan_of(TWO, {"gang": "Volcano"}, {"schedulerName": "volcano-gpu"}),
            merge(VOLCANO, in_template({"schedulerName": "volcano-gpu"})),
            id="Volcano under another name",
        ),
        pytest.param(plan_of(TWO, {"gang": "Coscheduling"}), COSCHEDULED, id="coscheduling"),
        pytest.param(
            plan_of(TWO, pod={"schedulerName": "scheduler-plugins-scheduler"}),
            COSCHEDULED,
            id="coscheduling, as the podTemplate names its scheduler",
        ),
        pytest.param(
            plan_of(TWO, {"gang": "Coscheduling"}, {"schedulerName": "mine"}),
            merge(COSCHEDULED, in_template({"schedulerName": "mine"})),
            id="coscheduling under another name",
        ),
        pytest.param(
            plan_of(a_job(), {"gang": "Coscheduling"}),
            in_template({"schedulerName": "scheduler-plugins-scheduler"}),
            id="one coscheduled pod is no group",
        ),
        pytest.param(plan_of(TWO, pod={"schedulerName": "mine"}), {}, id="a scheduler that we do not know"),
        pytest.param(plan_of(TWO, {"topology": {"required": RACK}}), near(REQUIRED, PEERS), id="pods must be near"),
        pytest.param(
            plan_of(TWO, {"topology": {"preferred": RACK}}),
            near(PREFERRED, {"weight": 100, "podAffinityTerm": PEERS}),
            id="pods should be near",
        ),
        pytest.param(
            plan_of(TWO, {"topology": {"required": RACK}}, {"affinity": {"podAffinity": {REQUIRED: [CACHE_SERVER]}}}),
            near(REQUIRED, CACHE_SERVER, PEERS),
            id="near each other, and near what the podTemplate names",
        ),
        pytest.param(
            plan_of(TWO, {"gang": "Volcano", "topology": {"required": RACK}}),
            merge(VOLCANO, near(REQUIRED, PEERS)),
            id="near each other under Volcano",
        ),
        pytest.param(plan_of(a_job(), {"topology": {"required": RACK}}), {}, id="one pod is near itself"),
        pytest.param(
            plan_of(TWO, {"priorityClassName": "high"}), in_template({"priorityClassName": "high"}), id="priority"
        ),
        pytest.param(
            plan_of(TWO, {"priorityClassName": "high"}, {"priorityClassName": "low"}),
            in_template({"priorityClassName": "high"}),
            id="scheduling's priority before the podTemplate's",
        ),
        pytest.param(plan_of(TWO, pod={"priorityClassName": "low"}), {}, id="the podTemplate's priority stays"),
    ],
)
def test_a_jobs_scheduling(plan: Plan, added: Part) -> None:
    assert job_of(plan) == merge(unplaced(plan), added)


def term(*expressions: Part) -> Part:
    return {"matchExpressions": list(expressions)}


def not_on(*nodes: str) -> Part:
    return {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(nodes)}


def required(*terms: Part) -> Part:
    return {REQUIRED: {"nodeSelectorTerms": list(terms)}}


def rather_not_on(*nodes: str) -> Part:
    return {"weight": 100, "preference": term(not_on(*nodes))}


B200 = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-B200"]}
ZONE = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}
BY_NAME = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-3"]}]}
SPOT = {"weight": 1, "preference": term({"key": "spot", "operator": "DoesNotExist"})}


@pytest.mark.parametrize(
    ("former", "excluded", "avoided", "wanted"),
    [
        pytest.param({}, ("node-1", "node-2"), (), required(term(not_on("node-1", "node-2"))), id="two are excluded"),
        pytest.param({}, (), ("node-1",), {PREFERRED: [rather_not_on("node-1")]}, id="one is avoided"),
        pytest.param(
            {},
            ("node-1",),
            ("node-2",),
            required(term(not_on("node-1"))) | {PREFERRED: [rather_not_on("node-2")]},
            id="one is excluded, one avoided",
        ),
        pytest.param(
            required(term(B200, ZONE)),
            ("node-1",),
            (),
            required(term(B200, ZONE, not_on("node-1"))),
            id="and what the podTemplate requires",
        ),
        pytest.param(
            required(term(B200), term(ZONE)),
            ("node-1",),
            (),
            required(term(B200, not_on("node-1")), term(ZONE, not_on("node-1"))),
            id="whichever of two terms holds",
        ),
        pytest.param(
            required(BY_NAME),
            ("node-1",),
            (),
            required(BY_NAME | term(not_on("node-1"))),
            id="and a term about the node's name",
        ),
        pytest.param(
            required({}, term(), term(ZONE)),
            ("node-1",),
            (),
            required({}, term(), term(ZONE, not_on("node-1"))),
            id="a term that holds nowhere does not begin to hold",
        ),
        pytest.param(
            required(term(ZONE)) | {PREFERRED: [SPOT]},
            (),
            ("node-1",),
            required(term(ZONE)) | {PREFERRED: [SPOT, rather_not_on("node-1")]},
            id="beside what the podTemplate prefers",
        ),
    ],
)
def test_faulty_nodes(former: Part, excluded: tuple[str, ...], avoided: tuple[str, ...], wanted: Part) -> None:
    template = {"affinity": {"nodeAffinity": former}} if former else {}
    plan = replace(plan_of(TWO, pod=template), excluded=excluded, avoided=avoided)
    job = unplaced(plan)
    job["spec"]["template"]["spec"]["affinity"] = {"nodeAffinity": wanted}
    assert job_of(plan) == job


def test_pods_stay_near_each_other_and_off_a_faulty_node_at_once() -> None:
    plan = replace(plan_of(TWO, {"topology": {"required": RACK}}), excluded=("node-1",))
    assert job_of(plan)["spec"]["template"]["spec"]["affinity"] == {
        "podAffinity": {REQUIRED: [PEERS]},
        "nodeAffinity": required(term(not_on("node-1"))),
    }


def test_pods_are_near_those_of_their_own_attempt_only() -> None:
    plan = plan_of(TWO, {"topology": {"required": RACK}}).with_attempt(2)
    (found,) = job_of(plan)["spec"]["template"]["spec"]["affinity"]["podAffinity"][REQUIRED]
    assert found["labelSelector"] == {"matchLabels": {"batch.kubernetes.io/job-name": "reviews-0a1b2-r1a2"}}


@pytest.mark.parametrize(
    ("scheduling", "scheduler", "chosen"),
    [
        pytest.param({}, None, Gang.NONE, id="nothing said"),
        pytest.param({"queueName": "a"}, None, Gang.KUEUE, id="a queue"),
        pytest.param({"queueName": "a"}, "volcano", Gang.KUEUE, id="a queue before a scheduler"),
        pytest.param({}, "volcano", Gang.VOLCANO, id="Volcano's scheduler"),
        pytest.param({}, "scheduler-plugins-scheduler", Gang.COSCHEDULING, id="the coscheduler"),
        pytest.param({}, "default-scheduler", Gang.NONE, id="the default scheduler"),
        pytest.param({"gang": "None", "queueName": "a"}, "volcano", Gang.NONE, id="none, in so many words"),
        pytest.param({"gang": "Volcano", "queueName": "a"}, None, Gang.VOLCANO, id="Volcano's queue"),
    ],
)
def test_auto_is_decided_by_the_queue_and_then_by_the_scheduler(
    scheduling: Part, scheduler: str | None, chosen: Gang
) -> None:
    assert gang(plan_of(TWO, scheduling, {"schedulerName": scheduler} if scheduler else {})) is chosen


@pytest.mark.parametrize(
    ("nodes", "attempt", "host"),
    [
        pytest.param(1, 1, "127.0.0.1", id="one node meets itself"),
        pytest.param(2, 3, "reviews-0a1b2-r1a3-0.reviews-0a1b2-r1", id="the attempt's first pod, by the run's Service"),
    ],
)
def test_where_pods_meet(nodes: int, attempt: int, host: str) -> None:
    assert rendezvous_host(a_job().with_nodes(nodes).plan().with_attempt(attempt)) == host


def test_the_job_that_is_given_stays_as_it_is() -> None:
    scheduling = {"queueName": "a", "priorityClassName": "high", "topology": {"required": RACK}}
    plan = replace(plan_of(TWO, scheduling, {"affinity": {"nodeAffinity": required(term(ZONE))}}), excluded=("node-1",))
    job = unplaced(plan)
    before = copy.deepcopy(job)
    assert scheduled(job, plan) != before
    assert job == before
