"""The node's namespaces and the bridge that joins them to the host.

The node has its own network, mount, process and host-name namespaces. Whatever kubelet, containerd and kube-proxy do to
mounts, interfaces and iptables stays in there and is gone when the namespaces' first process ends.
"""

from collections.abc import Sequence
from pathlib import Path

from support.cluster.build import Programs
from support.cluster.layout import BRIDGE, HOST_ADDRESS, NODE_ADDRESS, NODE_NAME, POD_SUBNET, SUBNET, Layout
from support.cluster.process import CommandFailed, Daemon, children, run, succeeds

VETH = "finetune0n"
MASQUERADE = ["POSTROUTING", "-s", SUBNET, "!", "-d", SUBNET, "-j", "MASQUERADE"]
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def holder(layout: Layout) -> Daemon:
    """The program that holds the node's namespaces; it is their process 1."""
    return Daemon("node", layout.run)


def first_process(layout: Layout) -> int:
    """The pid, as the host sees it, of the node's process 1; raises CommandFailed where the node does not run."""
    inside = children(holder(layout).pid or 0)
    if not inside:
        raise CommandFailed(f"the node of the cluster in {layout.run} does not run")
    return inside[0]


def enter(layout: Layout) -> list[str]:
    """The words before a command that runs it inside the node."""
    return ["nsenter", f"--target={first_process(layout)}", "--mount", "--uts", "--net", "--pid", "--"]


def start_node_namespaces(layout: Layout, programs: Programs) -> None:
    """Makes the namespaces, with a fresh /run, /var/lib and /var/log of the node's own."""
    lib, log = layout.node / "lib", layout.node / "log"
    for directory in (lib / "containerd", log, layout.containerd):
        directory.mkdir(parents=True, exist_ok=True)
    script = [
        "set -e",
        f"hostname {NODE_NAME}",
        "mount --make-rshared /",
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mount --bind {layout.containerd} {lib / 'containerd'}",
        f"mount --rbind {lib} /var/lib",
        f"mount --bind {log} /var/log",
        "touch /run/node-is-made",
        f"exec {programs['pause']}",
    ]
    unshare = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--uts", "--net"]
    node = holder(layout)
    node.start([*unshare, "--", "sh", "-c", "\n".join(script)])
    node.await_ready(lambda: _is_made(layout), seconds=10)


def _is_made(layout: Layout) -> bool:
    inside = children(holder(layout).pid or 0)
    return bool(inside) and succeeds([*enter(layout), "test", "-e", "/run/node-is-made"])


def connect_node(layout: Layout) -> None:
    """Gives the host and the node an address each on a bridge, and the host a route to the pods."""
    inside = enter(layout)
    _ip(f"link add {BRIDGE} type bridge")
    _ip(f"address add {HOST_ADDRESS}/24 dev {BRIDGE}")
    _ip(f"link set {BRIDGE} up")
    _ip(f"link add {VETH} type veth peer name eth0 netns {first_process(layout)}")
    _ip(f"link set {VETH} master {BRIDGE} up")
    for command in ("link set lo up", "link set eth0 up", f"address add {NODE_ADDRESS}/24 dev eth0"):
        _ip(command, inside)
    run([*inside, "sh", "-c", f"echo 1 > {IP_FORWARD}"])
    _ip(f"route add {POD_SUBNET} via {NODE_ADDRESS}")


def allow_internet(layout: Layout) -> None:
    """Lets pods reach what the host reaches; without it they reach only the cluster and the host."""
    _ip(f"route add default via {HOST_ADDRESS}", enter(layout))
    (layout.run / "ip_forward").write_text(IP_FORWARD.read_text())
    IP_FORWARD.write_text("1")
    run(["iptables", "--wait", "-t", "nat", "-A", *MASQUERADE])


def remove(layout: Layout) -> None:
    """Removes from the host what connect_node and allow_internet added."""
    found_before = layout.run / "ip_forward"
    if found_before.exists():
        IP_FORWARD.write_text(found_before.read_text())
        _remove_masquerade()
        found_before.unlink()
    for interface in (VETH, BRIDGE):
        if succeeds(["ip", "link", "show", interface]):
            _ip(f"link delete {interface}")


def _remove_masquerade() -> None:
    nat = ["iptables", "--wait", "-t", "nat"]
    if succeeds([*nat, "-C", *MASQUERADE]):
        run([*nat, "-D", *MASQUERADE])


def _ip(command: str, inside: Sequence[str] = ()) -> None:
    run([*inside, "ip", *command.split()])
