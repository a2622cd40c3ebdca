"""The node: containerd, kubelet and kube-proxy inside the node's namespaces."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from support.cluster import certificates, network
from support.cluster.build import Programs
from support.cluster.layout import (
    CLUSTER_DOMAIN,
    HOST_ADDRESS,
    NODE_ADDRESS,
    NODE_NAME,
    POD_SUBNET,
    REGISTRY,
    Layout,
)
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


def daemons(layout: Layout) -> tuple[Daemon, ...]:
    """The node's programs, in the order in which they start."""
    return tuple(Daemon(name, layout.run) for name in ("containerd", "kubelet", "kube-proxy"))


def start_runtime(layout: Layout) -> None:
    """Starts containerd and removes the containers that an earlier node left in its store."""
    containerd = daemons(layout)[0]
    _write_runtime_configuration(layout)
    _start_containerd(layout, containerd)
    if _purge_containers(layout):
        _stop_containerd(containerd)
        _start_containerd(layout, containerd)


def start_agents(layout: Layout, programs: Programs) -> None:
    """Starts kubelet and kube-proxy; the API server must be up."""
    _, kubelet, proxy = daemons(layout)
    _remember_kernel_settings(layout)
    for controller in _cgroup_controllers():
        (controller / layout.cgroup).mkdir(exist_ok=True)
    kubelet.start([*network.enter(layout), *_kubelet(layout, programs)])
    proxy.start([*network.enter(layout), *_proxy(layout, programs)])


def stop(layout: Layout) -> None:
    """Ends every process of the node at once, and undoes what it changed in the kernel."""
    network.holder(layout).stop()
    for daemon in daemons(layout):
        daemon.stop()
    for controller in _cgroup_controllers():
        _remove_cgroup(controller / layout.cgroup)
    _restore_kernel_settings(layout)


def ctr(layout: Layout, *arguments: str) -> str:
    """Runs containerd's own client in the node, in the name space that kubelet uses."""
    return run([*network.enter(layout), "ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments])


def images(layout: Layout) -> list[str]:
    """The references of the images that the node has."""
    return ctr(layout, "images", "list", "--quiet").split()


def remove_image(layout: Layout, reference: str) -> None:
    """Removes an image from the node; containers that run from it keep their files."""
    ctr(layout, "images", "delete", reference)


def _start_containerd(layout: Layout, containerd: Daemon) -> None:
    command = [*network.enter(layout), "containerd", "--config", str(layout.config / "containerd.toml")]
    containerd.start(command)
    client = [*network.enter(layout), "ctr", "--address", SOCKET, "version"]
    containerd.await_ready(lambda: succeeds(client), seconds=30)


def _stop_containerd(containerd: Daemon) -> None:
    """nsenter stands between us and containerd, so the signal goes to its child; the store needs a gentle end."""
    for inside in children(containerd.pid or 0):
        os.kill(inside, signal.SIGTERM)
    wait_until(lambda: containerd.pid is None, seconds=10)


def _purge_containers(layout: Layout) -> bool:
    containers = ctr(layout, "containers", "list", "--quiet").split()
    if containers:
        ctr(layout, "containers", "delete", *containers)
    return bool(containers)


def _write_runtime_configuration(layout: Layout) -> None:
    registry = layout.config / "registries" / REGISTRY
    networks = layout.config / "cni"
    for directory in (registry, networks):
        directory.mkdir(parents=True)
    (registry / "hosts.toml").write_text(f'[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n')
    (networks / "10-bridge.conflist").write_text(json.dumps(_pod_network()))
    (layout.config / "containerd.toml").write_text(_containerd_configuration(registry.parent, networks))


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


def _pod_network() -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def _kubelet(layout: Layout, programs: Programs) -> list[str | Path]:
    pki = layout.certificates
    configuration = layout.config / "kubelet.yaml"
    configuration.write_text(yaml.safe_dump(_kubelet_configuration(layout)))
    return [
        programs["kubelet"],
        f"--config={configuration}",
        f"--kubeconfig={certificates.kubeconfig(pki, certificates.KUBELET)}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ]


def _kubelet_configuration(layout: Layout) -> dict[str, Any]:
    pki = layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "clusterDNS": [HOST_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        # The host's own resolver would be asked for names that no test may depend on.
        "resolvConf": "",
        "oomScoreAdj": 0,
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "healthzBindAddress": "127.0.0.1",
    }


def _proxy(layout: Layout, programs: Programs) -> list[str | Path]:
    configuration = layout.config / "kube-proxy.yaml"
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {
            "kubeconfig": str(certificates.kubeconfig(layout.certificates, certificates.PROXY)),
        },
        "mode": "iptables",
        "clusterCIDR": POD_SUBNET,
        "hostnameOverride": NODE_NAME,
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
    values = {str(path): path.read_text() for path in KERNEL_SETTINGS if path.exists()}
    (layout.run / "kernel-settings").write_text(json.dumps(values))


def _restore_kernel_settings(layout: Layout) -> None:
    remembered = layout.run / "kernel-settings"
    if remembered.exists():
        for path, value in json.loads(remembered.read_text()).items():
            Path(path).write_text(value)
        remembered.unlink()
