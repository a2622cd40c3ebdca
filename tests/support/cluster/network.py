"""The nodes' namespaces and the bridge that joins them to the host.

A node has its own network, mount, process and host-name namespaces. Whatever kubelet, containerd and kube-proxy do to
mounts, interfaces and iptables stays in there and is gone when the namespaces' first process ends.
"""

from collections.abc import Sequence
from pathlib import Path

from support.cluster.build import Programs
from support.cluster.layout import BRIDGE, HOST_ADDRESS, SUBNET, Layout, Node
from support.cluster.process import CommandFailed, Daemon, children, run, succeeds

MASQUERADE = ["POSTROUTING", "-s", SUBNET, "!", "-d", SUBNET, "-j", "MASQUERADE"]
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def holder(node: Node) -> Daemon:
    """The program that holds the node's namespaces; it is their process 1."""
    return Daemon(node.program("node"), node.layout.run)


def first_process(node: Node) -> int:
    """The pid, as the host sees it, of the node's process 1; raises CommandFailed where the node does not run."""
    inside = children(holder(node).pid or 0)
    if not inside:
        raise CommandFailed(f"{node.name} of the cluster in {node.layout.run} does not run")
    return inside[0]


def enter(node: Node) -> list[str]:
    """The words before a command that runs it inside the node."""
    return ["nsenter", f"--target={first_process(node)}", "--mount", "--uts", "--net", "--pid", "--"]


def start_node_namespaces(node: Node, programs: Programs) -> None:
    """Makes the namespaces, with a fresh /run, /var/lib and /var/log of the node's own."""
    lib, log = node.files / "lib", node.files / "log"
    for directory in (lib / "containerd", log, node.containerd):
        directory.mkdir(parents=True, exist_ok=True)
    script = [
        "set -e",
        f"hostname {node.name}",
        "mount --make-rshared /",
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mount --bind {node.containerd} {lib / 'containerd'}",
        f"mount --rbind {lib} /var/lib",
        f"mount --bind {log} /var/log",
        "touch /run/node-is-made",
        f"exec {programs['pause']}",
    ]
    unshare = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--uts", "--net"]
    daemon = holder(node)
    daemon.start([*unshare, "--", "sh", "-c", "\n".join(script)])
    daemon.await_ready(lambda: _is_made(node), seconds=10)


def _is_made(node: Node) -> bool:
    inside = children(holder(node).pid or 0)
    return bool(inside) and succeeds([*enter(node), "test", "-e", "/run/node-is-made"])


def make_bridge() -> None:
    """Makes the bridge, with the host's address on it."""
    _ip(f"link add {BRIDGE} type bridge")
    _ip(f"address add {HOST_ADDRESS}/24 dev {BRIDGE}")
    _ip(f"link set {BRIDGE} up")


def connect(node: Node) -> None:
    """Gives the node an address on the bridge, and the host and the other nodes that run a route to its pods."""
    inside = enter(node)
    _ip(f"link add {node.interface} type veth peer name eth0 netns {first_process(node)}")
    _ip(f"link set {node.interface} master {BRIDGE} up")
    for command in ("link set lo up", "link set eth0 up", f"address add {node.address}/24 dev eth0"):
        _ip(command, inside)
    run([*inside, "sh", "-c", f"echo 1 > {IP_FORWARD}"])
    _ip(f"route replace {node.pods} via {node.address}")
    for other in node.layout.nodes:
        if other != node and holder(other).pid:
            _ip(f"route replace {node.pods} via {node.address}", enter(other))
            _ip(f"route replace {other.pods} via {other.address}", inside)


def unplug(node: Node) -> None:
    """Nothing reaches the node and nothing leaves it; what runs on it goes on running."""
    _ip(f"link set {node.interface} down")


def plug_in(node: Node) -> None:
    """Undoes unplug."""
    _ip(f"link set {node.interface} up")


def disconnect(node: Node) -> None:
    """Removes from the host what connect added."""
    _delete_link(node.interface)
    if succeeds(["ip", "link", "show", BRIDGE]):
        succeeds(["ip", "route", "delete", node.pods])


def allow_internet(layout: Layout) -> None:
    """Lets the first node's pods reach what the host reaches; without it they reach only the cluster and the host."""
    _ip(f"route add default via {HOST_ADDRESS}", enter(layout.first_node))
    (layout.run / "ip_forward").write_text(IP_FORWARD.read_text())
    IP_FORWARD.write_text("1")
    run(["iptables", "--wait", "-t", "nat", "-A", *MASQUERADE])


def remove(layout: Layout) -> None:
    """Removes from the host what make_bridge, connect and allow_internet added."""
    found_before = layout.run / "ip_forward"
    if found_before.exists():
        IP_FORWARD.write_text(found_before.read_text())
        _remove_masquerade()
        found_before.unlink()
    for node in layout.nodes:
        disconnect(node)
    _delete_link(BRIDGE)


def _delete_link(name: str) -> None:
    """Also one that goes by itself in this moment, with the namespace that its other end is in."""
    if not succeeds(["ip", "link", "delete", name]) and succeeds(["ip", "link", "show", name]):
        _ip(f"link delete {name}")


def _remove_masquerade() -> None:
    nat = ["iptables", "--wait", "-t", "nat"]
    if succeeds([*nat, "-C", *MASQUERADE]):
        run([*nat, "-D", *MASQUERADE])


def _ip(command: str, inside: Sequence[str] = ()) -> None:
    run([*inside, "ip", *command.split()])
