"""The images: what they weigh, and as whom they run."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from typing import Any

import pytest

from support.cluster import Cluster
from support.cluster.access import Access, split_reference

pytestmark = pytest.mark.cluster

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MOST_MEGABYTES_ABOVE_BASE = 180


def fetch(reference: str, kind: str, name: str) -> bytes:
    """A manifest or blob of an image from the registry that its reference names."""
    repository, _ = split_reference(reference)
    host, _, path = repository.partition("/")
    request = urllib.request.Request(f"http://{host}/v2/{path}/{kind}/{name}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def unpacked_size(reference: str, digest: str) -> int:
    """Bytes of a layer as it lies on a node."""
    packed = fetch(reference, "blobs", digest)
    return len(subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def references(cluster: Access) -> dict[str, str]:
    """The two images of our own registry."""
    if not isinstance(cluster, Cluster):
        pytest.skip("the registry of a named cluster is not ours to read")
    images = cluster.images()
    return {"operator": images.operator, "trainer": images.trainer}


def manifest_of(reference: str) -> Any:
    return json.loads(fetch(reference, "manifests", split_reference(reference)[1]))


def test_the_operators_layers_above_its_base_are_under_180_megabytes(references: dict[str, str]) -> None:
    reference = references["operator"]
    _base, *above = manifest_of(reference)["layers"]
    sizes = [unpacked_size(reference, layer["digest"]) for layer in above]
    assert sum(sizes) / 1e6 < MOST_MEGABYTES_ABOVE_BASE, sizes


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_an_image_runs_its_program_as_nobody(references: dict[str, str], name: str) -> None:
    config = fetch(references[name], "blobs", manifest_of(references[name])["config"]["digest"])
    described = json.loads(config)["config"]
    assert (described["User"], described["Entrypoint"]) == ("65532:65532", ["python", "-m", f"finetune_{name}"])
