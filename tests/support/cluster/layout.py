"""Where the test cluster keeps its files, and the addresses it uses."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

BRIDGE = "finetune0"
SUBNET = "10.231.0.0/16"
HOST_ADDRESS = "10.231.0.1"
SERVICE_SUBNET = "10.232.0.0/16"
API_SERVICE_ADDRESS = "10.232.0.1"
CLUSTER_DOMAIN = "cluster.local"

API_PORT = 6443
REGISTRY_PORT = 5000
DNS_PORT = 53
ETCD_PORT = 23790
ETCD_PEER_PORT = 23791

NODE_NAMES = ("finetune-node-0", "finetune-node-1")
SECOND_NODE_TAINT = {"key": "finetune.test/second", "effect": "NoSchedule"}
REGISTRY = f"{HOST_ADDRESS}:{REGISTRY_PORT}"
API_URL = f"https://{HOST_ADDRESS}:{API_PORT}"


def default_cache() -> Path:
    """The cache directory: FINETUNE_TEST_CACHE, or finetune-operator under the user's cache."""
    chosen = os.environ.get("FINETUNE_TEST_CACHE")
    if chosen:
        return Path(chosen).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache).absolute() / "finetune-operator"


@dataclass(frozen=True)
class Layout:
    """The directories of one cluster; `cache` outlives it, `run` is made anew at each start."""

    cache: Path

    @property
    def binaries(self) -> Path:
        return self.cache / "bin"

    @property
    def containers(self) -> Path:
        """The storage of buildah."""
        return self.cache / "containers"

    @property
    def registry(self) -> Path:
        return self.cache / "registry"

    @property
    def run(self) -> Path:
        return self.cache / "run"

    @property
    def kubeconfig(self) -> Path:
        return self.run / "kubeconfig"

    @property
    def certificates(self) -> Path:
        return self.run / "pki"

    @property
    def config(self) -> Path:
        return self.run / "config"

    @property
    def audit_log(self) -> Path:
        return self.run / "audit.log"

    @property
    def volumes(self) -> Path:
        return self.run / "volumes"

    @property
    def cgroup(self) -> str:
        """The control group of all pods; another for every cache, as a kubelet removes what it does not know."""
        return f"finetune-test-{hashlib.sha256(str(self.cache).encode()).hexdigest()[:8]}"

    @property
    def first_node(self) -> "Node":
        """The node that every cluster has."""
        return Node(self, 0)

    @property
    def second_node(self) -> "Node":
        """The node that only some tests start."""
        return Node(self, 1)

    @property
    def nodes(self) -> "tuple[Node, ...]":
        return (self.first_node, self.second_node)


@dataclass(frozen=True)
class Node:
    """A node's name and addresses, and where its files lie."""

    layout: Layout
    number: int

    @property
    def name(self) -> str:
        return NODE_NAMES[self.number]

    @property
    def address(self) -> str:
        return f"10.231.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.231.{1 + self.number}.0/24"

    @property
    def interface(self) -> str:
        """The host's end of its cable."""
        return f"{BRIDGE}n{self.number}"

    @property
    def cgroup(self) -> str:
        return f"{self.layout.cgroup}/{self.name}"

    @property
    def files(self) -> Path:
        return self.layout.run / self.name

    @property
    def config(self) -> Path:
        return self.layout.config / self.name

    @property
    def containerd(self) -> Path:
        """The image store. The first node's is kept, since unpacking the trainer image takes a minute."""
        return self.layout.cache / self.program("containerd")

    @property
    def taints(self) -> tuple[dict[str, str], ...]:
        """Pods of tests that do not ask for the second node are not placed on it."""
        return (SECOND_NODE_TAINT,) if self.number else ()

    def program(self, name: str) -> str:
        """The name by which one of its programs is known."""
        return f"{name}-{self.number}" if self.number else name
