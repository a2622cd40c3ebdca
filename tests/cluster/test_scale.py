"""One hundred jobs: what they cost in memory, and that a job in which nothing happens costs no write."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from support.cluster.access import OPERATOR_NAMESPACE, Access
from support.example_jobs import quickstart
from support.live import KIND

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

JOBS = 100
MOST_MEBIBYTES = 130
QUIET_SECONDS = 30
OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"


@pytest.fixture
def hundred_jobs(installed_operator: Access, namespace: str) -> str:
    """One hundred two-node jobs with their children; no node takes their pods."""
    template = {"spec": {"nodeSelector": {"finetune.dev/no-such-node": "true"}}}
    manifests = [quickstart(f"job-{number}", podTemplate=template, output=None) for number in range(JOBS)]
    for manifest in manifests:
        manifest["metadata"]["namespace"] = namespace
    installed_operator.apply(*manifests)
    deadline = time.monotonic() + 240
    while len(installed_operator.list("pods", namespace)) < 2 * JOBS:
        assert time.monotonic() < deadline, "the pods of 100 jobs did not appear within 240 s"
        time.sleep(2)
    return namespace


def test_a_hundred_jobs_fit_in_130_mebibytes_and_are_left_in_peace(
    installed_operator: Access, hundred_jobs: str
) -> None:
    time.sleep(10)
    quiet_since = datetime.now(UTC).isoformat()
    time.sleep(QUIET_SECONDS)
    status = installed_operator.kubectl(
        "exec", f"--namespace={OPERATOR_NAMESPACE}", "deployment/finetune-operator", "--", "cat", "/proc/1/status"
    )
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    writes = [
        event
        for event in installed_operator.audit_events()
        if event.user == OPERATOR and event.writes and event.namespace == hundred_jobs and event.time > quiet_since
    ]
    assert len(installed_operator.list(KIND, hundred_jobs)) == JOBS
    assert writes == []
    assert peak_kib / 1024 < MOST_MEBIBYTES
