"""Claims on directories of this machine, so that a test reads a volume's files as they lie there."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.cluster.access import Claim, Object
from support.cluster.layout import NODE_NAMES

STORAGE_CLASS_NAME = "finetune-local"
STORAGE_CLASS: Object = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": STORAGE_CLASS_NAME,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "kubernetes.io/no-provisioner",
    "volumeBindingMode": "WaitForFirstConsumer",
}
NAMESPACE_LABEL = "finetune.test/namespace"
CAPACITY = "10Gi"


@dataclass(frozen=True)
class LocalClaim(Claim):
    """A claim with a `local` volume bound to it, which honours fsGroup as a hostPath does not."""

    namespace: str
    name: str
    directory: Path

    def files(self) -> Sequence[str]:
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())

    def read(self, path: str) -> bytes:
        return (self.directory / path).read_bytes()

    def put(self, source: Path, path: str) -> None:
        shutil.copytree(source, self.directory / path)
        for item in (self.directory / path).rglob("*"):
            item.chmod(0o755 if item.is_dir() else 0o644)

    def manifests(self) -> tuple[Object, Object]:
        """A volume that no other claim may bind, and the claim."""
        volume = local_volume(f"{self.namespace}-{self.name}", self.directory, {NAMESPACE_LABEL: self.namespace})
        volume["spec"]["claimRef"] = {"namespace": self.namespace, "name": self.name}
        return volume, self._claim(volume["metadata"]["name"])

    def _claim(self, volume_name: str) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": STORAGE_CLASS_NAME,
                "volumeName": volume_name,
                "resources": {"requests": {"storage": CAPACITY}},
            },
        }


def local_volume(name: str, directory: Path, labels: dict[str, str]) -> Object:
    """A volume that shows a directory of this machine, which both nodes are."""
    both_nodes = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(NODE_NAMES)}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "storageClassName": STORAGE_CLASS_NAME,
            "capacity": {"storage": CAPACITY},
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(directory)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [both_nodes]}]}},
        },
    }
