"""CoreDNS on the host, answering without a time to live so that tests see changes at once."""

import socket
import struct

from support.cluster import certificates
from support.cluster.build import Programs
from support.cluster.layout import API_URL, CLUSTER_DOMAIN, DNS_PORT, HOST_ADDRESS, Layout
from support.cluster.process import Daemon

ACCESS = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "coredns"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"},
        "subjects": [{"kind": "User", "name": certificates.DNS.user, "apiGroup": "rbac.authorization.k8s.io"}],
    },
]


def daemon(layout: Layout) -> Daemon:
    """The name server's program."""
    return Daemon("coredns", layout.run)


def start(layout: Layout, programs: Programs, *, forward: bool) -> None:
    """Starts the name server; with `forward`, names outside the cluster are asked of the host's resolvers."""
    corefile = layout.config / "Corefile"
    corefile.write_text(_corefile(layout, forward))
    daemon(layout).start([programs["coredns"], "-conf", corefile])


def await_ready(layout: Layout) -> None:
    """Waits until it knows the cluster's services."""
    daemon(layout).await_ready(lambda: resolves(f"kubernetes.default.svc.{CLUSTER_DOMAIN}"), seconds=30)


def _corefile(layout: Layout, forward: bool) -> str:
    pki = layout.certificates
    return f""".:{DNS_PORT} {{
    bind {HOST_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        endpoint {API_URL}
        tls {pki / "dns.crt"} {pki / "dns.key"} {pki / "ca.crt"}
        pods insecure
        ttl 0
    }}
    {"forward . /etc/resolv.conf" if forward else ""}
}}
"""


def resolves(name: str) -> bool:
    """Whether the cluster's name server has an address for the name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            client.sendto(question, (HOST_ADDRESS, DNS_PORT))
            answer = client.recv(512)
        except OSError:
            return False
    return bool(struct.unpack(">6H", answer[:12])[3])
