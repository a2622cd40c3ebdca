"""A cross-validation by two pods on a real cluster: both go from run to run together, and mean and spread are told."""

from __future__ import annotations

import json

import pytest

from finetune_api.names import uid5
from finetune_api.status import Phase
from support.cluster.access import Access
from support.example_jobs import quickstart
from support.live import LiveJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_mean_and_spread_over_the_folds_stand_in_the_status(installed_operator: Access, namespace: str) -> None:
    """One attempt does all runs; no pod of it fails; the test of the last one stands beside them."""
    claim = installed_operator.create_claim(namespace, "finetune")
    evaluation = {"crossValidation": {"folds": 2}}
    manifest = quickstart("folds", training={"numTrainEpochs": 1}, evaluation=evaluation)
    job = LiveJob(installed_operator, namespace, "folds")
    installed_operator.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(manifest))
    status = job.wait_for_end(600)
    assert status.phase == Phase.SUCCEEDED, job.describe()
    assert (status.attempt, status.restarts and status.restarts.total) == (1, 0)
    assert {"cv_accuracy_mean", "cv_accuracy_std", "test_accuracy"} <= set(status.metrics)
    folder = f"models/{namespace}/folds/{uid5(job.object()['metadata']['uid'])}"
    folds = json.loads(claim.read(f"{folder}/cross_validation.json"))["folds"]
    accuracies = [fold["metrics"]["accuracy"] for fold in folds]
    assert status.metrics["cv_accuracy_mean"] == pytest.approx(sum(accuracies) / 2)
    assert not [name for name in claim.files() if "checkpoints/folds-" in name and name.endswith(".safetensors")]
