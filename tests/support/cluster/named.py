"""A cluster that a person has named, instead of one of our own."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.cluster import kueue
from support.cluster.access import Access, Claim, Images, NoAuditLog, NoKueue, Object
from support.cluster.audit import AuditEvent
from support.cluster.process import CommandFailed


@dataclass(frozen=True)
class NamedCluster(Access):
    """A cluster by its kubeconfig; kubectl and helm come from PATH."""

    path: Path
    reachable_images: Images
    storage_class: str | None

    @classmethod
    def from_environment(cls) -> Self | None:
        """The cluster of FINETUNE_TEST_KUBECONFIG; None where the variable is not set."""
        kubeconfig = os.environ.get("FINETUNE_TEST_KUBECONFIG")
        if not kubeconfig:
            return None
        images = Images(_image("FINETUNE_TEST_OPERATOR_IMAGE"), _image("FINETUNE_TEST_TRAINER_IMAGE"))
        return cls(Path(kubeconfig), images, os.environ.get("FINETUNE_TEST_STORAGE_CLASS"))

    @property
    def kubeconfig(self) -> Path:
        return self.path

    def program(self, name: str) -> Path:
        found = shutil.which(name)
        if not found:
            raise RuntimeError(f"FINETUNE_TEST_KUBECONFIG is set, but there is no {name} on PATH; install it")
        return Path(found)

    def images(self) -> Images:
        return self.reachable_images

    def audit_events(self) -> Sequence[AuditEvent]:
        raise NoAuditLog("the audit log of the cluster of FINETUNE_TEST_KUBECONFIG cannot be read from here")

    def create_claim(self, namespace: str, name: str) -> Claim:
        self.apply(_claim(namespace, name, self.storage_class))
        return PodClaim(self, namespace, name)

    def remove_claims(self, namespace: str) -> None:
        """Nothing to do: a provisioned volume goes with its claim."""

    def install_kueue(self) -> None:
        if not kueue.is_installed(self):
            raise NoKueue("the cluster of FINETUNE_TEST_KUBECONFIG has no Kueue; install 0.14 or newer there")

    def remove_kueue(self) -> None:
        """Nothing to do: it belongs to the person who has installed it."""


def _image(variable: str) -> str:
    image = os.environ.get(variable)
    if not image:
        raise RuntimeError(f"FINETUNE_TEST_KUBECONFIG is set, so {variable} must name an image that its nodes can pull")
    return image


def _claim(namespace: str, name: str, storage_class: str | None) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Gi"}},
            **({"storageClassName": storage_class} if storage_class else {}),
        },
    }


@dataclass(frozen=True)
class PodClaim(Claim):
    """A claim that is read and written through a pod."""

    cluster: NamedCluster
    namespace: str
    name: str

    def files(self) -> Sequence[str]:
        return sorted(self._inside("find", "/volume", "-type", "f", "-printf", "%P\\n").decode().splitlines())

    def read(self, path: str) -> bytes:
        try:
            return self._inside("cat", f"/volume/{path}")
        except CommandFailed as error:
            if "No such file" in str(error):
                raise FileNotFoundError(path) from error
            raise

    def put(self, source: Path, path: str) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(source, arcname=path)
        self._inside("tar", "--extract", "--no-same-owner", "--directory=/volume", stdin=packed.getvalue())

    def _inside(self, *command: str, stdin: bytes | None = None) -> bytes:
        """Runs a command in the reader pod, which it makes where there is none."""
        scope = f"--namespace={self.namespace}"
        self.cluster.apply(_reader(self))
        self.cluster.kubectl("wait", scope, f"pod/{_reader_name(self)}", "--for=condition=Ready", "--timeout=120s")
        kubectl = [str(self.cluster.program("kubectl")), f"--kubeconfig={self.cluster.kubeconfig}"]
        exec_ = [*kubectl, "exec", scope, *(["--stdin"] if stdin else []), _reader_name(self), "--", *command]
        done = subprocess.run(exec_, input=stdin, capture_output=True)
        if done.returncode:
            raise CommandFailed(done.stderr.decode())
        return done.stdout


def _reader_name(claim: PodClaim) -> str:
    return f"read-{claim.name}"


def _reader(claim: PodClaim) -> Object:
    container = {
        "name": "reader",
        "image": claim.cluster.images().operator,
        "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": claim.namespace, "name": _reader_name(claim)},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim.name}}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 0,
        },
    }
