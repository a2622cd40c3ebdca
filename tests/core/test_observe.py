"""`observe`: each pod in one bucket, each fact about a Job read once."""

import pytest

from finetune_api.progress import Outcome, Result
from finetune_operator.core.observe import (
    Bucket,
    Children,
    JobEnd,
    JobState,
    NodeHealth,
    Observed,
    nodes_in_doubt,
    observe,
    read_outcome,
)
from support.builders import NOW, APod, a_child_job, a_pod

SILENT = {"node-1": NodeHealth(ready=False, since="2026-11-21T09:58:00Z")}


def look(*pods: APod, gone: tuple[APod, ...] = (), nodes: dict[str, NodeHealth] | None = None) -> Observed:
    children = Children(
        pods=tuple(pod.manifest for pod in pods), gone=tuple(pod.manifest for pod in gone), nodes=nodes or {}
    )
    return observe(children, NOW, node_lost_seconds=120)


@pytest.mark.parametrize(
    ("pod", "bucket"),
    [
        pytest.param(a_pod(), Bucket.RUNNING, id="running"),
        pytest.param(a_pod().not_ready(), Bucket.RUNNING, id="not ready"),
        pytest.param(a_pod().pending(), Bucket.PENDING, id="pending"),
        pytest.param(a_pod().unschedulable("0/1 nodes"), Bucket.PENDING, id="without a node"),
        pytest.param(a_pod().being_deleted(), Bucket.TERMINATING, id="being deleted"),
        pytest.param(a_pod().succeeded(), Bucket.SUCCEEDED, id="succeeded"),
        pytest.param(a_pod().failed(1), Bucket.FAILED, id="failed"),
        pytest.param(a_pod().failed(75).being_deleted(), Bucket.FAILED, id="failed while being deleted"),
    ],
)
def test_bucket(pod: APod, bucket: Bucket) -> None:
    (seen,) = look(pod).pods
    assert (seen.bucket, seen.live) == (bucket, bucket in {"running", "pending", "terminating"})


@pytest.mark.parametrize(
    ("pod", "since", "bucket", "next_check"),
    [
        pytest.param(a_pod().not_ready(), "2026-11-21T09:58:00Z", Bucket.LOST, None, id="silent for long enough"),
        pytest.param(a_pod().not_ready(), "2026-11-21T09:59:00Z", Bucket.RUNNING, 60, id="silent for a minute"),
        pytest.param(
            a_pod().being_deleted(), "2026-11-21T09:00:00Z", Bucket.LOST, None, id="cannot end: node is silent"
        ),
        pytest.param(a_pod().failed(1), "2026-11-21T09:00:00Z", Bucket.FAILED, None, id="ended before"),
        pytest.param(a_pod(), "2026-11-21T09:00:00Z", Bucket.RUNNING, None, id="a ready pod's node is not looked at"),
    ],
)
def test_a_pod_is_lost_when_its_node_has_been_silent(pod: APod, since: str, bucket: Bucket, next_check: float) -> None:
    observed = look(pod, nodes={"node-1": NodeHealth(ready=False, since=since)})
    assert ([seen.bucket for seen in observed.pods], observed.next_check) == ([bucket], next_check)


def test_a_pod_on_a_ready_node_is_never_lost() -> None:
    observed = look(a_pod().not_ready(), nodes={"node-1": NodeHealth(ready=True, since="2020-01-01T00:00:00Z")})
    assert observed.pods[0].bucket is Bucket.RUNNING


def test_only_nodes_of_pods_in_doubt_are_asked_for() -> None:
    pods = [a_pod(), a_pod().not_ready(), a_pod().failed(1), a_pod().unschedulable("none")]
    assert nodes_in_doubt([pod.manifest for pod in pods[:1] + pods[2:]]) == set()
    assert nodes_in_doubt([pod.manifest for pod in pods]) == {"node-1"}


def test_a_deleted_pods_last_words_count_until_the_pod_is_seen_again() -> None:
    gone = a_pod().failed(75)
    assert [pod.bucket for pod in look(gone=(gone,)).pods] == [Bucket.GONE]
    assert [pod.bucket for pod in look(gone, gone=(gone,)).pods] == [Bucket.FAILED]
    assert [pod.bucket for pod in look(gone=(a_pod().succeeded(),)).pods] == [Bucket.SUCCEEDED]


def test_pods_are_sorted_by_attempt_and_rank() -> None:
    pods = look(a_pod(1), a_pod(0).of_attempt(2), a_pod(0)).pods
    assert [(pod.attempt, pod.rank) for pod in pods] == [(1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize(
    ("pod", "waiting"),
    [
        pytest.param(a_pod().pending(), None, id="creating is no trouble"),
        pytest.param(a_pod().pending("ImagePullBackOff", "back-off"), ("ImagePullBackOff", "back-off"), id="image"),
        pytest.param(a_pod().pending("ErrImagePull", "no host"), ("ImagePullBackOff", "no host"), id="told as one"),
        pytest.param(
            a_pod().pending("CreateContainerConfigError", "secret"),
            ("CreateContainerConfigError", "secret"),
            id="secret",
        ),
        pytest.param(a_pod().unschedulable("no GPU"), ("Unschedulable", "no GPU"), id="no node"),
        pytest.param(a_pod(), None, id="running"),
    ],
)
def test_what_keeps_a_pod_from_running(pod: APod, waiting: tuple[str, str] | None) -> None:
    assert look(pod).pods[0].waiting == waiting


RULE = "Container trainer for pod team-a/p failed with exit code 65 matching FailJob rule at index 1"


@pytest.mark.parametrize(
    ("job", "state", "end"),
    [
        pytest.param(a_child_job(), JobState.ACTIVE, None, id="active"),
        pytest.param(a_child_job().complete(), JobState.COMPLETE, None, id="complete"),
        pytest.param(
            a_child_job().failed_by_rule(1, 65, "p"),
            JobState.FAILED,
            JobEnd("PodFailurePolicy", RULE, 1, 65, "p"),
            id="rule",
        ),
        pytest.param(
            a_child_job().failed_by_rule(1, 65, "p").failing(),
            JobState.FAILED,
            JobEnd("PodFailurePolicy", RULE, 1, 65, "p"),
            id="sure to fail",
        ),
        pytest.param(
            a_child_job().failed("limit"),
            JobState.FAILED,
            JobEnd("BackoffLimitExceeded", "limit", None, None, None),
            id="limit",
        ),
    ],
)
def test_job(job: object, state: JobState, end: JobEnd | None) -> None:
    (seen,) = observe(Children(jobs=(job.manifest,)), NOW, 120).jobs  # type: ignore[attr-defined]
    assert (seen.name, seen.run, seen.attempt, seen.state, seen.end) == ("reviews-0a1b2-r1a1", 1, 1, state, end)


def test_a_failed_pod_tells_exit_code_and_outcome() -> None:
    outcome = Outcome(outcome=Result.PREEMPTED)
    ended = look(a_pod().failed(75, outcome=outcome)).pods[0].ended
    assert ended is not None
    assert (ended.exit_code, ended.outcome, ended.log) == (75, outcome, None)


def test_the_log_of_another_program_is_kept() -> None:
    ended = look(a_pod().failed(1, message="Traceback …")).pods[0].ended
    assert ended is not None
    assert (ended.outcome, ended.log) == (None, "Traceback …")


@pytest.mark.parametrize("message", [None, "", "plain text", "{broken", '{"outcome": "Unheard"}', "[1]"])
def test_what_is_no_outcome_is_not_taken_for_one(message: str | None) -> None:
    assert read_outcome(message) is None


def test_an_outcome_of_a_newer_trainer_is_read() -> None:
    assert read_outcome('{"outcome": "Succeeded", "mood": "good"}') == Outcome(outcome=Result.SUCCEEDED)
