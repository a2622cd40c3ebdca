"""The first fault is the cause: which pod, which class, which words; and what keeps pods from starting."""

from dataclasses import replace
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import BUDGETS, CLASS_OF_EXIT_CODE, Budget, Failure, FailureClass, Outcome, Result
from finetune_operator.core.events import Trouble, TroubleKind
from finetune_operator.core.faults import WORDS, blocked, fault, not_started
from finetune_operator.core.observe import Bucket, Children, NodeHealth, Pod, observe
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
        pytest.param(a_pod().failed(73), "StorageFull", id="73"),
        pytest.param(a_pod().failed(77), "AuthError", id="77"),
        pytest.param(a_pod().failed(126), "ConfigError", id="the program may not be executed"),
        pytest.param(a_pod().failed(127), "ConfigError", id="the program was not found"),
        pytest.param(a_pod().failed(1, message="CUDA out of memory"), "OutOfMemoryGPU", id="its log knows better"),
        pytest.param(
            a_pod().failed(134, message="Watchdog caught collective operation timeout: WorkNCCL"),
            "CollectiveTimeout",
            id="ended by NCCL's watchdog",
        ),
        pytest.param(a_pod().failed(65, message="CUDA out of memory"), "DataError", id="its exit code says it"),
        pytest.param(
            a_pod().failed(137, message="OSError: [Errno 28] No space left on device"),
            "StorageFull",
            id="137 and a log that knows better",
        ),
        pytest.param(
            a_pod().failed(1, message="SignalException: Process 7 got signal: 15").being_deleted(),
            "PodDeleted",
            id="torchrun that was deleted",
        ),
        pytest.param(
            a_pod().failed(1, message="SignalException: Process 7 got signal: 15"),
            "Preempted",
            id="torchrun that was told to stop",
        ),
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


def test_an_error_that_the_trainer_did_not_know_is_known_by_its_words() -> None:
    said = Failure(
        class_=FailureClass.CODE_ERROR,
        reason="RuntimeError",
        message="CUDA error: uncorrectable ECC error encountered (loop.py:80)",
        hint="its traceback is in the log",
        rank=9,
        log_tail="step 7",
    )
    pod = a_pod(1).failed(70, outcome=Outcome(outcome=Result.FAILED, failure=said))
    assert cause(pod, job=FAILED) == said.model_copy(
        update={
            "class_": FailureClass.HARDWARE_ERROR,
            "reason": "GPUMemoryError",
            "hint": "drain and repair the node: kubectl describe node node-1",
            "pod": pod.name,
            "node": "node-1",
            "exit_code": 70,
        }
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


def test_the_programs_exception_is_the_message() -> None:
    log = 'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\nValueError: 7 labels, 3 outputs\n'
    pod = a_pod().failed(1, message=log)
    assert cause(pod, job=FAILED) == Failure(
        class_=FailureClass.CODE_ERROR,
        reason="ValueError",
        message=f"pod {pod.name}: ValueError: 7 labels, 3 outputs",
        hint=f"read the pod's log: kubectl logs {pod.name} -n team-a",
        rank=0,
        pod=pod.name,
        node="node-1",
        exit_code=1,
        log_tail=log.rstrip(),
    )


def test_torchruns_root_cause_is_the_rank_and_the_exit_code() -> None:
    log = (
        "Root Cause (first observed failure):\n[0]:\n  time      : 2026-11-21_09:59:58\n  host      : node-1\n"
        "  rank      : 13 (local_rank: 5)\n  exitcode  : -11 (pid: 50) (SIGSEGV)\n  error_file: <N/A>\n"
        "  traceback : Signal 11 (SIGSEGV) received by PID 50\n====\n"
    )
    pod = a_pod(1).failed(1, message=log)
    assert cause(pod, job=FAILED) == Failure(
        class_=FailureClass.CODE_ERROR,
        reason="CodeError",
        message=f"pod {pod.name}: rank 13 was ended by SIGSEGV with exit code 139",
        hint=f"read the pod's log: kubectl logs {pod.name} -n team-a",
        rank=13,
        pod=pod.name,
        node="node-1",
        exit_code=139,
        signal="SIGSEGV",
        log_tail=log.rstrip(),
    )


def test_a_rank_that_was_killed_under_torchrun_is_told_of_beside_its_class() -> None:
    pod = a_pod().failed(1, message=TORCHRUN.replace("exitcode  : 1", "exitcode  : -9"))
    failure = cause(pod, job=FAILED)
    assert failure is not None
    assert (failure.class_, failure.rank, failure.signal, failure.message) == (
        "OutOfMemoryHost",
        3,
        "SIGKILL",
        f"pod {pod.name}: the pod's memory was exhausted: rank 3 was ended by SIGKILL with exit code 137",
    )


def test_a_program_that_is_not_there_is_told_with_what_the_runtime_said() -> None:
    said = 'exec: "trian": executable file not found in $PATH: unknown'
    failure = cause(a_pod().failed(128, message=said, reason="StartError"), job=FAILED)
    assert failure is not None
    assert (failure.reason, failure.message, failure.hint) == (
        "StartError",
        f"pod {a_pod().name}: the container could not be started: container trainer ended with exit code 128: {said}",
        "name a program that the image has, by its path: spec.trainer.command",
    )


def test_the_tail_of_a_log_has_thirty_lines() -> None:
    failure = cause(a_pod().failed(1, message="\n".join(f"line {n}" for n in range(80))), job=FAILED)
    assert failure is not None
    assert failure.log_tail is not None
    assert failure.log_tail.splitlines() == [f"line {n}" for n in range(50, 80)]


def test_a_broken_device_names_the_node() -> None:
    failure = cause(a_pod().failed(1, message="CUDA error: uncorrectable ECC error encountered"), job=FAILED)
    assert failure is not None
    assert (failure.class_, failure.reason, failure.node) == ("HardwareError", "GPUMemoryError", "node-1")
    assert failure.hint == "drain and repair the node: kubectl describe node node-1"


EARLY, LATE = "2026-11-21T09:59:00Z", "2026-11-21T09:59:05Z"
PEER_LOST = Outcome(
    outcome=Result.FAILED,
    failure=Failure(class_=FailureClass.UNAVAILABLE, reason="PeerLost", message="another process vanished"),
)
GLOO = "RuntimeError: [gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.7]:32144."
TORCHRUN = (
    "Root Cause (first observed failure):\n[0]:\n  time      : 2026-11-21_09:59:29\n"
    "  rank      : 3 (local_rank: 1)\n  exitcode  : 1 (pid: 50)\n  traceback : To enable traceback see: x\n===\n"
)


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
        pytest.param(
            (a_pod(0).failed(69, at=EARLY, outcome=PEER_LOST), a_pod(1).failed(65, at=LATE)),
            1,
            id="not a lost peer, although it ended earlier",
        ),
        pytest.param(
            (a_pod(0).failed(1, at=EARLY, message=GLOO), a_pod(1).failed(1, at=LATE, message="KeyError: 'x'")),
            1,
            id="not a lost peer of another program",
        ),
        pytest.param(
            (a_pod(0).failed(69, at=EARLY, outcome=PEER_LOST), a_pod(1).failed(75, at=LATE).being_deleted(LATE)),
            0,
            id="a lost peer before those that the Job then deleted",
        ),
        pytest.param(
            (a_pod(0).failed(69, at=LATE, outcome=PEER_LOST), a_pod(1).failed(75, at=LATE).being_deleted(EARLY)),
            1,
            id="a pod that was deleted before its peer missed it",
        ),
        pytest.param(
            (a_pod(0).failed(69, at=EARLY, outcome=PEER_LOST), a_pod(1).evicted()),
            1,
            id="an eviction of which nobody knows the time",
        ),
        pytest.param(
            (
                a_pod(0).failed(69, at=EARLY, outcome=PEER_LOST),
                a_pod(1).failed(137, at=LATE).being_deleted(LATE).disrupted("DeletionByTaintManager"),
            ),
            1,
            id="a node that went away, noticed later",
        ),
        pytest.param(
            (
                a_pod(0).failed(1, at=EARLY, message=GLOO),
                a_pod(1).failed(1, at=EARLY, message=GLOO),
            ),
            0,
            id="all lost a peer: the lower rank",
        ),
        pytest.param(
            (
                a_pod(0).failed(1, at="2026-11-21T09:59:30Z", message="KeyError: 'x'"),
                a_pod(1).failed(1, at="2026-11-21T09:59:58Z", message=TORCHRUN),
            ),
            3,
            id="torchrun ends later than the rank that failed first",
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
        pytest.param(9, 73, "StorageFull", id="73"),
        pytest.param(10, 77, "AuthError", id="77"),
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


def test_a_lost_node_is_the_cause_of_what_its_peers_saw() -> None:
    nodes = {"node-2": NodeHealth(ready=False, since="2026-11-21T09:00:00Z")}
    silent = replace(a_pod(1).not_ready(), node="node-2")
    failure = cause(a_pod(0).failed(69, outcome=PEER_LOST), silent, job=FAILED, nodes=nodes)
    assert failure is not None
    assert (failure.class_, failure.node, failure.rank) == (FailureClass.NODE_LOST, "node-2", 1)


def test_a_pod_that_vanished_is_the_cause_of_what_its_peers_saw() -> None:
    failure = cause(a_pod(0).failed(69, outcome=PEER_LOST), job=FAILED, gone=(a_pod(1),))
    assert failure is not None
    assert (failure.class_, failure.rank) == (FailureClass.POD_DELETED, 1)


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


PAGE = Path(__file__).parents[2].joinpath("docs/faults.md").read_text()
COLUMNS = {"none": Budget.FINAL, "program": Budget.PROGRAM, "infrastructure": Budget.INFRASTRUCTURE}


def rows_of_the_page(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of docs/faults.md."""
    lines = PAGE.partition(f"\n{heading}\n")[2].splitlines()
    table = takewhile(bool, dropwhile(lambda line: "|" not in line, lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table][2:]


def test_the_page_about_faults_has_every_class_with_its_budget() -> None:
    told = {name: COLUMNS[row[2]] for row in rows_of_the_page("## Classes") for name in row[0].split(", ")}
    assert told == {str(class_): budget for class_, budget in BUDGETS.items()}


def test_the_page_about_faults_has_the_class_of_every_exit_code() -> None:
    rows = rows_of_the_page("## Images of others")
    told = {code: row[1].partition(",")[0] for row in rows for code in row[0].split(", ")}
    for code in set(told) - {"any other"}:
        failure = cause(a_pod().failed(int(code)), job=FAILED)
        assert failure is not None
        assert failure.class_ == told[code]
    assert {str(int(code)) for code in CLASS_OF_EXIT_CODE} - set(told) == {"70"}


def a_waiting_pod(rank: int = 0, reason: str | None = None, message: str = "", node: str | None = "node-1") -> Pod:
    waiting = (reason, message) if reason else None
    return Pod(f"reviews-{rank}", 1, 1, rank, node, Bucket.PENDING, waiting=waiting)


def a_running_pod(rank: int, ready: bool = True) -> Pod:
    return Pod(f"reviews-{rank}", 1, 1, rank, "node-1", Bucket.RUNNING, ready=ready)


QUOTA = Trouble(
    TroubleKind.REFUSED,
    "FailedCreate",
    'pods "reviews-1-x" is forbidden: exceeded quota: gpus, limited: pods=1',
    "reviews",
)
NO_SECRET = Trouble(
    TroubleKind.MOUNT, "FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "token" not found', "reviews-1"
)
NO_ROOM = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


def test_a_pod_whose_image_is_not_there_blocks_its_attempt() -> None:
    pods = (a_running_pod(0), a_waiting_pod(1, "ImagePullBackOff", "trainr:1: not found"))
    assert blocked(pods, (), "team-a") == Failure(
        class_=FailureClass.IMAGE_PULL,
        reason="ImagePullBackOff",
        message="pod reviews-1: trainr:1: not found",
        hint="check spec.trainer.image: registry, name and tag; it is pulled again by itself",
        rank=1,
        pod="reviews-1",
        node="node-1",
    )


def test_pods_that_are_refused_block_their_attempt() -> None:
    assert blocked((), (QUOTA,), "team-a") == Failure(
        class_=FailureClass.CHILD_REFUSED,
        reason="QuotaExceeded",
        message="the API server refuses the job's pods: exceeded quota: gpus, limited: pods=1",
        hint="ask for less, or for a larger quota: kubectl describe quota gpus -n team-a",
    )


@pytest.mark.parametrize(
    ("pods", "troubles"),
    [
        pytest.param((), (), id="nothing is there yet"),
        pytest.param((a_waiting_pod(),), (), id="containers are being created"),
        pytest.param((a_waiting_pod(0, "Unschedulable", NO_ROOM, None),), (), id="no room"),
        pytest.param((a_waiting_pod(0, "ImagePullBackOff", "i/o timeout"),), (), id="the registry is away"),
        pytest.param((a_waiting_pod(0), a_waiting_pod(1)), (QUOTA,), id="refused before, there now"),
        pytest.param((a_waiting_pod(0), a_running_pod(1)), (NO_SECRET,), id="a trouble of a pod that runs now"),
    ],
)
def test_an_attempt_that_merely_waits_is_not_blocked(pods: tuple[Pod, ...], troubles: tuple[Trouble, ...]) -> None:
    assert blocked(pods, troubles, "team-a", desired_nodes=2) is None


@pytest.mark.parametrize(
    ("pods", "troubles", "class_", "reason", "message"),
    [
        pytest.param(
            (a_running_pod(0), *(a_waiting_pod(rank, "Unschedulable", NO_ROOM, None) for rank in (1, 2, 3))),
            (), "Unschedulable", "Unschedulable",
            f"1 of 4 pods ran together within 1800 s; reviews-1, reviews-2, reviews-3: {NO_ROOM}",
            id="no room for three",
        ),
        pytest.param(
            (a_running_pod(0),), (QUOTA,), "ChildRefused", "QuotaExceeded",
            "1 of 4 pods ran together within 1800 s; 3 pods were not created: the API server refuses the job's pods: "
            "exceeded quota: gpus, limited: pods=1",
            id="three refused",
        ),
        pytest.param(
            (a_running_pod(0), a_running_pod(1), a_running_pod(2)), (), "Unavailable", "StartTimeout",
            "3 of 4 pods ran together within 1800 s; 1 pod was not created: no Event tells why",
            id="one is not there and nobody says why",
        ),
        pytest.param(
            (a_waiting_pod(0, "Unschedulable", NO_ROOM, None), a_waiting_pod(1), a_running_pod(2), a_running_pod(3)),
            (NO_SECRET,), "ConfigError", "SecretNotFound",
            f"2 of 4 pods ran together within 1800 s; reviews-0: {NO_ROOM}; reviews-1: MountVolume.SetUp failed for "
            'volume "v" : secret "token" not found',
            id="what a person must mend before what may pass",
        ),
        pytest.param(
            tuple(a_waiting_pod(rank) for rank in range(4)), (), "Unavailable", "StartTimeout",
            "0 of 4 pods ran together within 1800 s; reviews-0, reviews-1, reviews-2, reviews-3: its containers are "
            "being created",
            id="slow to pull",
        ),
        pytest.param(
            (*(a_running_pod(rank) for rank in range(3)), a_running_pod(3, ready=False)), (),
            "Unavailable", "StartTimeout",
            "3 of 4 pods ran together within 1800 s; reviews-3: it runs and is not ready",
            id="not ready",
        ),
    ],
)  # fmt: skip
def test_a_gang_that_did_not_start_says_which_pods_were_missing_and_why(
    pods: tuple[Pod, ...], troubles: tuple[Trouble, ...], class_: str, reason: str, message: str
) -> None:
    failure = not_started(pods, troubles, 4, "team-a", 1800.0)
    assert (failure.class_, failure.reason, failure.message) == (class_, reason, message)


def test_of_many_missing_pods_five_are_named() -> None:
    pods = tuple(a_waiting_pod(rank, "Unschedulable", NO_ROOM, None) for rank in range(64))
    failure = not_started(pods, (), 64, "team-a", 60)
    assert failure.message == (
        f"0 of 64 pods ran together within 60 s; reviews-0, reviews-1, reviews-2, reviews-3, reviews-4: {NO_ROOM}; "
        "and 59 more"
    )
    assert failure.hint == (
        "ask for less, or for nodes that there are (kubectl describe nodes), or raise "
        "spec.runPolicy.startTimeoutSeconds"
    )
    assert (failure.rank, failure.pod) == (0, "reviews-0")
