"""Claims on directories of this machine, so that a test reads a volume's files as they lie there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.cluster.access import Claim, Object
from support.cluster.layout import NODE_NAME

STORAGE_CLASS_NAME = "finetune-local"
STORAGE_CLASS: Object = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": STORAGE_CLASS_NAME},
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

    def manifests(self) -> tuple[Object, Object]:
        """The volume and the claim."""
        return self._volume(), self._claim()

    @property
    def _volume_name(self) -> str:
        return f"{self.namespace}-{self.name}"

    def _volume(self) -> Object:
        our_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self._volume_name, "labels": {NAMESPACE_LABEL: self.namespace}},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": STORAGE_CLASS_NAME,
                "capacity": {"storage": CAPACITY},
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": self.namespace, "name": self.name},
                "local": {"path": str(self.directory)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [our_node]}]}},
            },
        }

    def _claim(self) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": STORAGE_CLASS_NAME,
                "volumeName": self._volume_name,
                "resources": {"requests": {"storage": CAPACITY}},
            },
        }
