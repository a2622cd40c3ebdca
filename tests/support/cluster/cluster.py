"""The cluster as a whole: starting it, stopping it, and what only a cluster of our own can do."""

import fcntl
import hashlib
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from support.cluster import audit, certificates, controlplane, dns, images, kueue, network, node, preflight, registry
from support.cluster.access import Access, Images
from support.cluster.build import Programs, build, programs
from support.cluster.layout import ETCD_PEER_PORT, ETCD_PORT, Layout, Node, default_cache
from support.cluster.packages import install_packages
from support.cluster.process import CommandFailed, ComponentFailed, Daemon
from support.cluster.volumes import NAMESPACE_LABEL, STORAGE_CLASS, LocalClaim, local_volume


@dataclass(frozen=True)
class SecondNode:
    """A node that a test can lose; pods come to it that tolerate layout.SECOND_NODE_TAINT."""

    cluster: "Cluster"
    node: Node

    @property
    def name(self) -> str:
        return self.node.name

    def lose(self) -> None:
        """Pulls its plug: the cluster hears no more of it, while its pods go on running by themselves."""
        network.unplug(self.node)

    def find(self) -> None:
        """Plugs it in again, and waits until the cluster has heard of it."""
        network.plug_in(self.node)
        self.cluster.await_node(self.node)


@dataclass(frozen=True)
class Cluster(Access):
    """One control plane and one node on this machine, found again by the files in its run directory."""

    layout: Layout = field(default_factory=lambda: Layout(default_cache()))

    def start(self, *, internet: bool = False) -> None:
        """Brings the cluster up; does nothing where it runs, and clears away one that is half up.

        With `internet` pods reach what this machine reaches; without it, only the cluster and the machine.
        """
        preflight.require(self.layout)
        with self._lock("start-stop"):
            if self.running():
                return
            self._clear()
            install_packages()
            built = build(self.layout)
            try:
                self._start(built, internet)
            except BaseException:
                self._end_processes()
                raise

    def stop(self) -> None:
        """Takes the cluster down and leaves the machine as it was; the caches stay."""
        with self._lock("start-stop"):
            self._clear()

    @contextmanager
    def started(self) -> Iterator[None]:
        """Runs for as long as the block takes, and afterwards only where it ran before."""
        ran_before = self.running()
        self.start()
        try:
            yield
        finally:
            if not ran_before:
                self.stop()

    def running(self) -> bool:
        """Whether every program runs and the node is ready."""
        return all(daemon.pid for daemon in self.daemons) and self._node_ready(self.layout.first_node)

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """Every program of the cluster with its first node."""
        layout = self.layout
        first = layout.first_node
        holder_and_services = (network.holder(first), registry.daemon(layout), dns.daemon(layout))
        return (*holder_and_services, *controlplane.daemons(layout), *node.daemons(first))

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def node_address(self) -> str:
        return self.layout.first_node.address

    def program(self, name: str) -> Path:
        return programs(self.layout)[name]

    def images(self) -> Images:
        """The images of the present sources; builds them, and puts them on the node, where that is not done."""
        return self._images

    @cached_property
    def _images(self) -> Images:
        with self._lock("images"):
            return images.load(self.layout.first_node, self._pull)

    def audit_events(self) -> Sequence[audit.AuditEvent]:
        return audit.read(self.layout.audit_log)

    def create_claim(self, namespace: str, name: str) -> LocalClaim:
        claim = LocalClaim(namespace, name, self.layout.volumes / namespace / name)
        shutil.rmtree(claim.directory, ignore_errors=True)  # An interrupted test may have left its files.
        claim.directory.mkdir(parents=True)
        self.apply(*claim.manifests())
        # A pod that comes before its claim is bound is unschedulable for some seconds.
        bound = "--for=jsonpath={.status.phase}=Bound"
        self.kubectl("wait", f"persistentvolumeclaim/{name}", f"--namespace={namespace}", bound, "--timeout=30s")
        return claim

    def offer_volumes(self, count: int) -> None:
        """Makes volumes that claims without a storage class of their own are bound to, as a provisioner would."""
        for number in range(count):
            name = f"spare-{number}"
            directory = self.layout.volumes / name
            directory.mkdir(parents=True, exist_ok=True)
            self.apply(local_volume(name, directory, {}))

    def remove_claims(self, namespace: str) -> None:
        selector = f"--selector={NAMESPACE_LABEL}={namespace}"
        self.kubectl("delete", "persistentvolumes", selector, "--wait=false")
        shutil.rmtree(self.layout.volumes / namespace, ignore_errors=True)

    def install_kueue(self) -> None:
        """Builds Kueue's manager where the cache lacks it, and installs it."""
        with self._lock("kueue"):
            kueue.install(self, kueue.image(self.layout))

    def remove_kueue(self) -> None:
        kueue.remove(self)

    @contextmanager
    def second_node(self) -> Iterator[SecondNode]:
        """A second node for as long as the block takes, with the images of the first; it starts in ten seconds."""
        self.images()
        second = self.layout.second_node
        self._stop_second_node()
        try:
            self._start_second_node(second)
            yield SecondNode(self, second)
        finally:
            self._stop_second_node()

    def _start_second_node(self, second: Node) -> None:
        built = programs(self.layout)
        node.share_images(self.layout.first_node, second)
        network.start_node_namespaces(second, built)
        network.connect(second)
        node.start_runtime(second)
        images.import_pause(second, built)
        node.start_agents(second, built)
        self.await_node(second)

    def _stop_second_node(self) -> None:
        second = self.layout.second_node
        node.stop(second)
        network.disconnect(second)
        shutil.rmtree(second.containerd, ignore_errors=True)
        self.kubectl("delete", "node", second.name, "--ignore-not-found")

    def _start(self, built: Programs, internet: bool) -> None:
        layout, first = self.layout, self.layout.first_node
        _require_free_ports()
        layout.config.mkdir(parents=True)
        certificates.create_all(layout)
        shutil.copy(certificates.kubeconfig(layout.certificates, certificates.ADMIN), layout.kubeconfig)
        network.make_bridge()
        network.start_node_namespaces(first, built)
        network.connect(first)
        if internet:
            network.allow_internet(layout)
        registry.start(layout, built)
        node.start_runtime(first)
        images.import_pause(first, built)
        controlplane.start(layout, built)
        node.start_agents(first, built)
        self.apply(STORAGE_CLASS, *dns.ACCESS)
        dns.start(layout, built, forward=internet)
        self._await_ready()

    def _await_ready(self) -> None:
        dns.await_ready(self.layout)
        self.await_node(self.layout.first_node)
        controller_manager = next(daemon for daemon in self.daemons if daemon.name == "kube-controller-manager")
        controller_manager.await_ready(self._default_account_exists, seconds=60)

    def await_node(self, wanted: Node) -> None:
        """Waits until the node is ready; raises ComponentFailed."""
        kubelet = node.daemons(wanted)[1]
        kubelet.await_ready(lambda: self._node_ready(wanted), seconds=60)

    def _node_ready(self, wanted: Node) -> bool:
        ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        try:
            return self.kubectl("get", "node", wanted.name, f"--output={ready}", "--request-timeout=5s") == "True"
        except CommandFailed:
            return False

    def _default_account_exists(self) -> bool:
        return self.get("serviceaccount", "default", "default") is not None

    def _pull(self, reference: str) -> None:
        """Has the node pull an image, as it would for any pod: by a pod."""
        name = f"pull-{hashlib.sha256(reference.encode()).hexdigest()[:8]}"
        self.kubectl("run", name, f"--image={reference}", "--restart=Never", "--command", "--", "true")
        try:
            self.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=5m")
        except CommandFailed as error:
            raise ComponentFailed(f"{error}\n{self.describe('default')}") from error
        finally:
            self.kubectl("delete", "pod", name, "--wait=false")

    def _clear(self) -> None:
        """Ends what runs of the cluster, whole or half up, and removes its files with the logs and volumes."""
        self._end_processes()
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def _end_processes(self) -> None:
        for one in self.layout.nodes:
            node.stop(one)
        node.leave_kernel(self.layout)
        shutil.rmtree(self.layout.second_node.containerd, ignore_errors=True)
        for daemon in self.daemons:
            daemon.stop()
        network.remove(self.layout)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One process at a time does what the lock is named after."""
        self.layout.cache.mkdir(parents=True, exist_ok=True)
        with (self.layout.cache / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _require_free_ports() -> None:
    for port in (ETCD_PORT, ETCD_PEER_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise ComponentFailed(f"port {port} of 127.0.0.1, which etcd needs, is in use by another program")
