"""One job of each modality beside text on a real cluster: two pods, the model and the rows on a volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import uid5
from finetune_api.status import Phase
from support.cases_media import CASES
from support.cluster.access import Access, Claim, Object
from support.live import LiveJob
from support.matrix import Case

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CLAIM = "finetune"
JOBS = {
    "image": "image-classification-vit",
    "audio": "audio-classification-wav2vec2-layer-norm",
    "multimodal": "multimodal-classification",
}


def job(name: str, case: Case, folder: Path) -> Object:
    """The case as a FineTuneJob of two pods, whose files are on the claim."""
    run = case.run(folder)
    moved = json.loads(json.dumps(run.config).replace(folder.as_uri(), f"pvc://{CLAIM}/input"))
    spec: dict[str, Any] = {section: moved[section] for section in ("task", "model", "dataset", "training")}
    spec |= {
        "output": {"uri": f"pvc://{CLAIM}/models"},
        "resources": {"nodes": 2, "cpu": "900m", "memory": "3Gi"},
    }
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(params=list(JOBS))
def case(request: pytest.FixtureRequest) -> Case:
    return next(case for case in CASES if case.id == JOBS[request.param])


@pytest.fixture
def claim(cluster: Access, namespace: str) -> Claim:
    return cluster.create_claim(namespace, CLAIM)


def test_two_pods_train_it_to_the_end(
    case: Case, installed_operator: Access, namespace: str, claim: Claim, tmp_path: Path
) -> None:
    """Succeeded, as good as on one machine, trained by two processes, and the model is on the volume."""
    manifest = job("modality", case, tmp_path / "input")
    claim.put(tmp_path / "input", "input")
    live = LiveJob(installed_operator, namespace, "modality")
    installed_operator.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(manifest))
    status = live.wait_for_end(600)
    assert status.phase == Phase.SUCCEEDED, live.describe()
    assert case.bar.holds(status.metrics[f"test_{case.bar.metric}"]), status.metrics
    folder = f"models/{namespace}/modality/{uid5(live.object()['metadata']['uid'])}"
    assert json.loads(claim.read(f"{folder}/run.json"))["choices"]["processes"] == 2
    assert f"{folder}/model/model.safetensors" in claim.files()
