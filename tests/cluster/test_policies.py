"""spec.runPolicy on a real cluster: budgets, rules, deadline, hang, start, TTL, suspension; programs are small."""

from __future__ import annotations

import time
from typing import Any

import pytest

from finetune_api.progress import FailureClass
from finetune_api.status import ConditionType, Phase, Status
from support.cluster.access import Access, Object
from support.example_jobs import quickstart
from support.live import LiveJob, condition
from support.small_programs import REPORT, program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"
MOST_WRITES = 6
SECONDS_FOR_THE_OPERATOR = 5


def start(cluster: Access, namespace: str, manifest: Object) -> LiveJob:
    manifest["metadata"]["namespace"] = namespace
    cluster.apply(manifest)
    return LiveJob(cluster, namespace, manifest["metadata"]["name"])


@pytest.fixture
def place(installed_operator: Access, namespace: str) -> str:
    installed_operator.create_claim(namespace, "finetune")
    return namespace


WAIT = "import time; time.sleep(600)"
ONCE = """
import os, sys, time
mark = os.environ["FINETUNE_OUTPUT_DIR"] + "/tried"
os.makedirs(os.path.dirname(mark), exist_ok=True)
if not os.path.exists(mark):
    open(mark, "w").close()
    time.sleep(3)
    sys.exit("the first try always fails")
time.sleep(3)
"""


def test_a_fault_of_the_program_costs_one_restart_six_writes_and_is_explained(
    installed_operator: Access, place: str
) -> None:
    job = start(installed_operator, place, program("once", ONCE))
    with job.watched() as seen:
        status = job.wait_for_end(120)
    assert status.phase is Phase.SUCCEEDED, job.describe()
    assert (status.attempt, status.restarts and status.restarts.program, status.restarts and status.restarts.infra) == (
        2,
        1,
        0,
    )
    told = next(one for one in seen if one.phase is Phase.RESTARTING)
    assert told.failure is not None
    assert (told.failure.class_, told.failure.exit_code, told.failure.rank) == (FailureClass.CODE_ERROR, 1, 0)
    assert told.failure.pod
    assert told.failure.node
    assert told.failure.hint
    assert "the first try always fails" in told.failure.message + (told.failure.log_tail or "")
    assert [record.result for record in status.history] == ["Failed", "Succeeded"]
    begin = job.object()["metadata"]["creationTimestamp"].removesuffix("Z")
    writes = [
        event
        for event in installed_operator.audit_events()
        if event.user == OPERATOR and event.writes and event.namespace == place and event.time >= begin
    ]
    assert len(writes) <= MOST_WRITES + MOST_WRITES, [(event.verb, event.resource) for event in writes]


@pytest.mark.parametrize(
    ("code", "policy", "class_", "said"),
    [
        pytest.param(
            "import sys; sys.exit(3)",
            {"rules": [{"name": "broken", "onExitCodes": [3], "action": "Fail"}]},
            FailureClass.CODE_ERROR,
            "rule broken",
            id="a rule on an exit code",
        ),
        pytest.param(
            "import sys; sys.exit('RuntimeError: shard 17 is corrupt')",
            {"rules": [{"name": "shards", "onLogPatterns": ["shard \\d+ is corrupt"], "action": "Fail"}]},
            FailureClass.CODE_ERROR,
            "rule shards",
            id="a rule on the log",
        ),
        pytest.param(
            "import sys; sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB')",
            {},
            FailureClass.OUT_OF_MEMORY_GPU,
            "OutOfMemoryGPU is not retried",
            id="what another program's log shows",
        ),
        pytest.param(
            "import sys; sys.exit(1)",
            {"backoffLimit": 0},
            FailureClass.CODE_ERROR,
            "spec.runPolicy.backoffLimit 0 is used up",
            id="no budget",
        ),
    ],
)
def test_a_job_ends_by_its_rules_and_budgets(
    installed_operator: Access, place: str, code: str, policy: dict[str, Any], class_: FailureClass, said: str
) -> None:
    job = start(installed_operator, place, program("ends", code, runPolicy=policy))
    status = job.wait_for_end(90)
    assert status.failure is not None
    assert (status.phase, status.failure.class_, status.attempt) == (Phase.FAILED, class_, 1), job.describe()
    assert said in next(item.message for item in status.conditions if item.type is ConditionType.READY)


def test_a_deadline_counts_running_time_and_ends_the_pods(installed_operator: Access, place: str) -> None:
    policy = {"activeDeadlineSeconds": 5}
    job = start(installed_operator, place, program("deadline", WAIT, runPolicy=policy))
    status = job.wait_for_end(90)
    assert (status.phase, status.failure and status.failure.class_) == (Phase.FAILED, FailureClass.DEADLINE_EXCEEDED)
    assert status.usage is not None
    assert status.usage.running_seconds >= 5
    wait_for_no_pods(job)


def wait_for_no_pods(job: LiveJob) -> None:
    deadline = time.monotonic() + 30
    while any(pod["status"]["phase"] in ("Pending", "Running") for pod in job.pods()):
        assert time.monotonic() < deadline, job.describe()
        time.sleep(0.5)


def test_a_program_without_a_step_is_taken_for_hanging(installed_operator: Access, place: str) -> None:
    code = REPORT + "report(3)\ntime.sleep(600)\n"
    policy = {"hangTimeoutSeconds": 10, "backoffLimit": 0}
    job = start(installed_operator, place, program("hangs", code, runPolicy=policy))
    status = job.wait_for_end(120)
    assert (status.phase, status.failure and status.failure.class_) == (Phase.FAILED, FailureClass.HANG), job.describe()
    assert status.failure is not None
    assert "since step 3" in status.failure.message
    wait_for_no_pods(job)


TOO_MUCH = {"cpu": "1500m"}


def test_a_gang_that_finds_no_place_together_lets_go_and_says_who_was_missing(
    installed_operator: Access, place: str
) -> None:
    """Two pods that fill the node each."""
    policy = {"startTimeoutSeconds": 15, "infraBackoffLimit": 0}
    job = start(installed_operator, place, program("too-big", WAIT, nodes=2, resources=TOO_MUCH, runPolicy=policy))
    status = job.wait_for_end(90)
    assert status.failure is not None
    assert (status.phase, status.failure.class_) == (Phase.FAILED, FailureClass.UNSCHEDULABLE), job.describe()
    assert "Insufficient cpu" in status.failure.message
    wait_for_no_pods(job)


def test_an_elastic_job_goes_on_with_the_nodes_that_there_are(installed_operator: Access, place: str) -> None:
    elastic = {"minNodes": 1, "waitSeconds": 10}
    code = "import os, time; time.sleep(60 if os.environ['FINETUNE_NODES'] == '2' else 3)"
    job = start(installed_operator, place, program("elastic", code, nodes=2, resources=TOO_MUCH, elastic=elastic))
    status = job.wait_for_end(120)
    assert status.phase is Phase.SUCCEEDED, job.describe()
    assert (status.nodes and status.nodes.desired, status.attempt, status.restarts and status.restarts.total) == (
        1,
        2,
        0,
    )
    assert [(record.result, record.reason, record.nodes) for record in status.history] == [
        ("Resized", "FewerNodes", 1),
        ("Succeeded", None, 1),
    ]


def test_ttl_takes_the_children_and_leaves_the_job(installed_operator: Access, place: str) -> None:
    job = start(installed_operator, place, program("brief", "", runPolicy={"ttlSecondsAfterFinished": 3}))
    status = job.wait_for_end(60)
    deadline = time.monotonic() + 30
    while job.children():
        assert time.monotonic() < deadline, job.children()
        time.sleep(0.5)
    time.sleep(5)
    assert job.children() == []
    assert job.status().to_dict() | {"conditions": []} == status.to_dict() | {"conditions": []}


def test_pods_that_a_quota_refuses_are_told_of_within_seconds_and_start_when_it_allows_them(
    installed_operator: Access, place: str
) -> None:
    metadata = {"name": "no-pods", "namespace": place}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    installed_operator.apply(quota)
    job = start(installed_operator, place, program("refused", ""))
    status = job.wait(lambda status: status.failure is not None, SECONDS_FOR_THE_OPERATOR, "the reason")
    assert status.failure is not None
    assert (status.phase, status.failure.class_) == (Phase.PENDING, FailureClass.CHILD_REFUSED)
    assert "exceeded quota: no-pods" in status.failure.message
    assert condition(status, ConditionType.STALLED) == "True"
    installed_operator.kubectl("delete", "resourcequota", "no-pods", f"--namespace={place}")
    assert job.wait_for_end(120).phase is Phase.SUCCEEDED, job.describe()


def test_a_secret_that_is_missing_is_named_and_starts_the_job_when_it_comes(
    installed_operator: Access, place: str
) -> None:
    source = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "later", "key": "key"}}}
    template = {"spec": {"containers": [{"name": "trainer", "env": [source]}]}}
    job = start(installed_operator, place, program("secret", "", podTemplate=template))
    status = job.wait(lambda status: status.failure is not None, 30, "the reason")
    assert status.failure is not None
    assert (status.phase, status.failure.class_) == (Phase.PENDING, FailureClass.CONFIG_ERROR)
    assert "later" in status.failure.message
    installed_operator.kubectl("create", "secret", "generic", "later", "--from-literal=key=1", f"--namespace={place}")
    assert job.wait_for_end(120).phase is Phase.SUCCEEDED, job.describe()


def test_suspend_saves_and_frees_the_hardware_and_resume_goes_on_from_the_step(
    installed_operator: Access, place: str
) -> None:
    manifest = quickstart("suspended", training={"maxSteps": 150}, checkpoint={"everySteps": 5}, resources={"nodes": 1})
    job = start(installed_operator, place, manifest)
    job.wait(lambda status: step_of(status) >= 5, 200, "step 5")
    suspend(job, True)
    status = job.wait(lambda status: status.phase is Phase.SUSPENDED, 10, "the suspension")
    assert condition(status, ConditionType.SUSPENDED) == "True"
    wait_for_no_pods(job)
    saved = job.wait(lambda status: status.checkpoint is not None, 20, "the checkpoint").checkpoint
    time.sleep(5)
    assert job.cluster.list("jobs", job.namespace, job.selector) == []
    suspend(job, False)
    status = job.wait_for_end(300)
    assert status.phase is Phase.SUCCEEDED, job.describe()
    assert status.checkpoint is not None
    assert saved is not None
    assert (status.checkpoint.resumed_from_step or 0) >= max(5, saved.step or 0)
    assert (status.attempt, status.restarts and status.restarts.total) == (2, 0)


def step_of(status: Status) -> int:
    return (status.progress.step if status.progress else None) or 0


def suspend(job: LiveJob, value: bool) -> None:
    patch = f'--patch={{"spec":{{"runPolicy":{{"suspend":{str(value).lower()}}}}}}}'
    job.cluster.kubectl("patch", "finetunejob", job.name, f"--namespace={job.namespace}", "--type=merge", patch)
