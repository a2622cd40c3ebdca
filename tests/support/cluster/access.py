"""What tests may ask of a cluster, whether it is ours or one that a person has named."""

import builtins
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.cluster.audit import AuditEvent
from support.cluster.layout import REPOSITORY
from support.cluster.process import CommandFailed, ComponentFailed, run

Object = dict[str, Any]


class NoAuditLog(RuntimeError):
    """The cluster's audit log cannot be read from here."""


class NoKueue(RuntimeError):
    """The cluster has no Kueue, and none can be brought into it from here."""


CHART = REPOSITORY / "charts" / "finetune-operator"
OPERATOR_NAMESPACE = "finetune-system"
RELEASE = "finetune"


@dataclass(frozen=True)
class Images:
    """References by which the cluster's nodes pull the two images."""

    operator: str
    trainer: str


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag of an image reference; raises ValueError where it has no tag."""
    repository, _, tag = reference.rpartition(":")
    if not repository or "/" in tag:
        raise ValueError(f"image reference {reference!r} has no tag; write it as repository:tag")
    return repository, tag


class Claim(ABC):
    """A PersistentVolumeClaim whose files a test can read."""

    namespace: str
    name: str

    @abstractmethod
    def files(self) -> Sequence[str]:
        """The paths of all files, relative to the volume's root, sorted."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """A file's content; raises FileNotFoundError."""

    @abstractmethod
    def put(self, source: Path, path: str) -> None:
        """Copies a folder's content to a folder of the volume."""


class Access(ABC):
    """A running cluster as tests use it."""

    @property
    @abstractmethod
    def kubeconfig(self) -> Path:
        """Where the administrator's kubeconfig lies."""

    @abstractmethod
    def program(self, name: str) -> Path:
        """The path of kubectl or helm."""

    @abstractmethod
    def images(self) -> Images:
        """The operator's and the trainer's image, on the nodes or within their reach."""

    @abstractmethod
    def audit_events(self) -> Sequence[AuditEvent]:
        """Every request that the API server has answered; raises NoAuditLog where that cannot be known."""

    @abstractmethod
    def create_claim(self, namespace: str, name: str) -> Claim:
        """Makes a claim that pods of the namespace can mount."""

    @abstractmethod
    def remove_claims(self, namespace: str) -> None:
        """Removes what the deletion of a namespace leaves of its claims."""

    @abstractmethod
    def install_kueue(self) -> None:
        """Makes sure that Kueue runs; raises NoKueue where that cannot be done from here."""

    @abstractmethod
    def remove_kueue(self) -> None:
        """Takes away what install_kueue brought, with every queue and namespace that it knows."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl and returns what it printed; raises CommandFailed with its error."""
        return run([self.program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments], stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """Runs helm and returns what it printed; raises CommandFailed with its error."""
        return run([self.program("helm"), f"--kubeconfig={self.kubeconfig}", *arguments])

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """One object, or None where it does not exist."""
        scope = [f"--namespace={namespace}"] if namespace else []
        text = self.kubectl("get", kind, name, *scope, "--ignore-not-found", "--output=json")
        return dict(json.loads(text)) if text.strip() else None

    def list(self, kind: str, namespace: str, selector: str = "") -> builtins.list[Object]:
        """The objects of a kind in a namespace, those that match the label selector."""
        text = self.kubectl("get", kind, f"--namespace={namespace}", f"--selector={selector}", "--output=json")
        return list(json.loads(text)["items"])

    def apply(self, *manifests: Object) -> None:
        """Applies manifests as kubectl apply -f does; raises CommandFailed where the API server refuses one."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    def install_operator(self) -> None:
        """Installs or upgrades the chart with the two images, and waits until the operator is ready."""
        images = self.images()
        operator, operator_tag = split_reference(images.operator)
        trainer, trainer_tag = split_reference(images.trainer)
        values = {
            "image.repository": operator,
            "image.tag": operator_tag,
            "trainer.image.repository": trainer,
            "trainer.image.tag": trainer_tag,
            # Two pods that ask for a processor core each fill a node of two cores.
            "resources.requests.cpu": "0",
        }
        settings = [word for name, value in values.items() for word in ("--set-string", f"{name}={value}")]
        where = [f"--namespace={OPERATOR_NAMESPACE}", "--create-namespace"]
        self._renew_definitions()
        try:
            self.helm("upgrade", "--install", RELEASE, str(CHART), *where, *settings, "--wait", "--timeout=2m")
        except CommandFailed as error:
            raise ComponentFailed(f"{error}\n{self.describe(OPERATOR_NAMESPACE)}") from error

    def restart_operator(self) -> None:
        """Lets the operator, where it is installed, look again at which kinds the cluster knows."""
        where = f"--namespace={OPERATOR_NAMESPACE}"
        if self.kubectl("get", "deployments", where, "--output=name", "--ignore-not-found").strip():
            self.kubectl("rollout", "restart", "deployment", where)
            self.kubectl("rollout", "status", "deployment", where, "--timeout=2m")

    def describe(self, namespace: str) -> str:
        """Objects, events and the end of every pod's log, for a person who asks what went wrong."""
        where = f"--namespace={namespace}"
        pods = [pod["metadata"]["name"] for pod in self.list("pods", namespace)]
        questions = [
            ("get", "all", where, "--output=wide"),
            ("get", "finetunejobs", where, "--output=yaml", "--ignore-not-found"),
            ("get", "events", where, "--sort-by=.lastTimestamp"),
            *(("logs", where, pod, "--tail=40", "--all-containers") for pod in pods),
        ]
        return "\n".join(f"$ kubectl {' '.join(question)}\n{self._answer(question)}" for question in questions)

    def _answer(self, question: tuple[str, ...]) -> str:
        try:
            return self.kubectl(*question)
        except CommandFailed as error:
            return str(error)

    def _renew_definitions(self) -> None:
        """helm installs the chart's CRDs once and never upgrades them."""
        if self.get("customresourcedefinition", "finetunejobs.finetune.dev"):
            self.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CHART / 'crds'}")
