"""Claims on directories of this machine, so that a test reads a volume's files as they lie there."""

import shutil
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
CAPACITY = "10Gi"


@dataclass(frozen=True)
class LocalClaim(Claim):
    """A claim with a `local` volume bound to it, which honours fsGroup as a hostPath does not."""

    namespace: str
    name: str
    directory: Path

    @property
    def volume_name(self) -> str:
        return f"{self.namespace}-{self.name}"

    def files(self) -> Sequence[str]:
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())

    def read(self, path: str) -> bytes:
        return (self.directory / path).read_bytes()

    def create_directory(self) -> None:
        """Makes the directory that the volume shows."""
        self.directory.mkdir(parents=True)

    def remove_directory(self) -> None:
        """Removes the directory with its files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def manifests(self) -> tuple[Object, Object]:
        """The volume and the claim."""
        return self._volume(), self._claim()

    def _volume(self) -> Object:
        our_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self.volume_name},
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
                "volumeName": self.volume_name,
                "resources": {"requests": {"storage": CAPACITY}},
            },
        }
