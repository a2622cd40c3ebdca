"""A node: containerd, kubelet and kube-proxy inside the node's namespaces."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from support.cluster import certificates, network
from support.cluster.build import Programs
from support.cluster.layout import CLUSTER_DOMAIN, HOST_ADDRESS, REGISTRY, Layout, Node
from support.cluster.process import Daemon, children, run, succeeds, wait_until

PAUSE_IMAGE = "localhost/pause:1"
CGROUPS = Path("/sys/fs/cgroup")
SOCKET = "/run/containerd/containerd.sock"

# kubelet sets these for the whole kernel, whatever namespace it is in.
KERNEL_SETTINGS = tuple(
    Path("/proc/sys", name)
    for name in (
        "kernel/keys/root_maxbytes",
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "vm/overcommit_memory",
        "vm/panic_on_oom",
    )
)


def daemons(node: Node) -> tuple[Daemon, ...]:
    """The node's programs, in the order in which they start."""
    return tuple(Daemon(node.program(name), node.layout.run) for name in ("containerd", "kubelet", "kube-proxy"))


def start_runtime(node: Node) -> None:
    """Starts containerd and removes the containers that an earlier node left in its store."""
    containerd = daemons(node)[0]
    _write_runtime_configuration(node)
    _start_containerd(node, containerd)
    if _purge_containers(node):
        _stop_containerd(containerd)
        _start_containerd(node, containerd)


def start_agents(node: Node, programs: Programs) -> None:
    """Starts kubelet and kube-proxy; the API server must be up."""
    _, kubelet, proxy = daemons(node)
    _remember_kernel_settings(node.layout)
    for controller in _cgroup_controllers():
        (controller / node.cgroup).mkdir(parents=True, exist_ok=True)
    kubelet.start([*network.enter(node), *_kubelet(node, programs)])
    proxy.start([*network.enter(node), *_proxy(node, programs)])


def stop(node: Node) -> None:
    """Ends every process of the node at once, and removes its control groups and files; its images stay."""
    network.holder(node).stop()
    for daemon in daemons(node):
        daemon.stop()
    for controller in _cgroup_controllers():
        _remove_cgroup(controller / node.cgroup)
    for directory in (node.config, node.files):
        shutil.rmtree(directory, ignore_errors=True)


def leave_kernel(layout: Layout) -> None:
    """Undoes what the nodes, which have been stopped, changed in the kernel."""
    for controller in _cgroup_controllers():
        _remove_cgroup(controller / layout.cgroup)
    _restore_kernel_settings(layout)


def share_images(source: Node, target: Node) -> None:
    """Gives a node that does not run the images of one that runs: links to the layers, which never change."""
    layers = source.containerd / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    shutil.rmtree(target.containerd, ignore_errors=True)
    with _standing_still(daemons(source)[0]):
        shutil.copytree(
            source.containerd,
            target.containerd,
            ignore=lambda directory, names: names if Path(directory) == layers else (),
        )
        for layer in layers.iterdir():
            (target.containerd / layer.relative_to(source.containerd)).symlink_to(layer)


@contextmanager
def _standing_still(containerd: Daemon) -> Iterator[None]:
    """Stops the program where it is, so that its databases and its files are of one moment."""
    inside = children(containerd.pid or 0)
    for pid in inside:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in inside:
            os.kill(pid, signal.SIGCONT)


def ctr(node: Node, *arguments: str) -> str:
    """Runs containerd's own client in the node, in the name space that kubelet uses."""
    return run([*network.enter(node), "ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments])


def images(node: Node) -> list[str]:
    """The references of the images that the node has."""
    return ctr(node, "images", "list", "--quiet").split()


def remove_image(node: Node, reference: str) -> None:
    """Removes an image from the node; containers that run from it keep their files."""
    ctr(node, "images", "delete", reference)


def _start_containerd(node: Node, containerd: Daemon) -> None:
    command = [*network.enter(node), "containerd", "--config", str(node.config / "containerd.toml")]
    containerd.start(command)
    client = [*network.enter(node), "ctr", "--address", SOCKET, "version"]
    containerd.await_ready(lambda: succeeds(client), seconds=30)


def _stop_containerd(containerd: Daemon) -> None:
    """nsenter stands between us and containerd, so the signal goes to its child; the store needs a gentle end."""
    for inside in children(containerd.pid or 0):
        os.kill(inside, signal.SIGTERM)
    wait_until(lambda: containerd.pid is None, seconds=10)


def _purge_containers(node: Node) -> bool:
    containers = ctr(node, "containers", "list", "--quiet").split()
    if containers:
        ctr(node, "containers", "delete", *containers)
    return bool(containers)


def _write_runtime_configuration(node: Node) -> None:
    registry = node.config / "registries" / REGISTRY
    networks = node.config / "cni"
    for directory in (registry, networks):
        directory.mkdir(parents=True)
    (registry / "hosts.toml").write_text(f'[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n')
    (networks / "10-bridge.conflist").write_text(json.dumps(_pod_network(node)))
    (node.config / "containerd.toml").write_text(_containerd_configuration(registry.parent, networks))


def _containerd_configuration(registries: Path, networks: Path) -> str:
    """restrict_oom_score_adj lets it work without CAP_SYS_RESOURCE; the discarded layers halve the disk it takes."""
    return f"""version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    discard_unpacked_layers = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
"""


def _pod_network(node: Node) -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def _kubelet(node: Node, programs: Programs) -> list[str | Path]:
    pki = node.layout.certificates
    configuration = node.config / "kubelet.yaml"
    configuration.write_text(yaml.safe_dump(_kubelet_configuration(node)))
    return [
        programs["kubelet"],
        f"--config={configuration}",
        f"--kubeconfig={certificates.kubeconfig(pki, certificates.kubelet(node))}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]


def _kubelet_configuration(node: Node) -> dict[str, Any]:
    pki = node.layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "registerWithTaints": list(node.taints),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{certificates.kubelet_server(node)}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{certificates.kubelet_server(node)}.key"),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "clusterDNS": [HOST_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        # The host's own resolver would be asked for names that no test may depend on.
        "resolvConf": "",
        "oomScoreAdj": 0,
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 16,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "healthzBindAddress": "127.0.0.1",
    }


def _proxy(node: Node, programs: Programs) -> list[str | Path]:
    configuration = node.config / "kube-proxy.yaml"
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {
            "kubeconfig": str(certificates.kubeconfig(node.layout.certificates, certificates.PROXY)),
        },
        "mode": "iptables",
        "clusterCIDR": node.pods,
        "hostnameOverride": node.name,
        "oomScoreAdj": 0,
        # Connection tracking is sized for the whole kernel, which a namespace cannot do.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    configuration.write_text(yaml.safe_dump(content))
    return [programs["kube-proxy"], f"--config={configuration}"]


def _cgroup_controllers() -> Iterator[Path]:
    """The roots of the cgroup hierarchies: one in version 2, one a controller in version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        yield CGROUPS
        return
    yield from (path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def _remove_cgroup(root: Path) -> None:
    """Removes the empty groups from the leaves up; the kernel lets go of them soon after the last process."""

    def removed() -> bool:
        for group in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                group.rmdir()
        with suppress(OSError):
            root.rmdir()
        return not root.exists()

    wait_until(removed, seconds=10)


def _remember_kernel_settings(layout: Layout) -> None:
    """Before the first kubelet starts; a second one finds what that has set."""
    remembered = layout.run / "kernel-settings"
    if not remembered.exists():
        values = {str(path): path.read_text() for path in KERNEL_SETTINGS if path.exists()}
        remembered.write_text(json.dumps(values))


def _restore_kernel_settings(layout: Layout) -> None:
    remembered = layout.run / "kernel-settings"
    if remembered.exists():
        for path, value in json.loads(remembered.read_text()).items():
            Path(path).write_text(value)
        remembered.unlink()
