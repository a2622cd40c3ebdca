"""etcd, the API server with its audit log, the controller manager and the scheduler, on the host."""

import ssl
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from support.cluster import certificates
from support.cluster.build import Programs
from support.cluster.layout import (
    API_PORT,
    API_URL,
    CLUSTER_DOMAIN,
    ETCD_PEER_PORT,
    ETCD_PORT,
    HOST_ADDRESS,
    SERVICE_SUBNET,
    Layout,
)
from support.cluster.process import Daemon

ETCD_URL = f"http://127.0.0.1:{ETCD_PORT}"
ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def daemons(layout: Layout) -> tuple[Daemon, ...]:
    """The control plane's programs, in the order in which they start."""
    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    return tuple(Daemon(name, layout.run) for name in names)


def start(layout: Layout, programs: Programs) -> None:
    """Starts the control plane and returns once the API server is ready."""
    etcd, api_server, controller_manager, scheduler = daemons(layout)
    etcd.start(_etcd(layout))
    api_server.start(_api_server(layout, programs))
    api_server.await_ready(lambda: _api_ready(layout), seconds=90)
    controller_manager.start(_controller_manager(layout, programs))
    scheduler.start(_scheduler(layout, programs))


def _etcd(layout: Layout) -> list[str]:
    peer = f"http://127.0.0.1:{ETCD_PEER_PORT}"
    return [
        "etcd",
        f"--data-dir={layout.run / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--logger=zap",
        "--log-level=warn",
    ]


def _api_server(layout: Layout, programs: Programs) -> list[str | Path]:
    pki = layout.certificates
    policy = layout.config / "audit-policy.yaml"
    policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    return [
        programs["kube-apiserver"],
        f"--etcd-servers={ETCD_URL}",
        f"--bind-address={HOST_ADDRESS}",
        f"--advertise-address={HOST_ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=10000",
        "--profiling=false",
    ]


def _controller_manager(layout: Layout, programs: Programs) -> list[str | Path]:
    pki = layout.certificates
    return [
        programs["kube-controller-manager"],
        f"--kubeconfig={certificates.kubeconfig(pki, certificates.CONTROLLER_MANAGER)}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        "--use-service-account-credentials=true",
        "--node-monitor-grace-period=20s",
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]


def _scheduler(layout: Layout, programs: Programs) -> list[str | Path]:
    return [
        programs["kube-scheduler"],
        f"--kubeconfig={certificates.kubeconfig(layout.certificates, certificates.SCHEDULER)}",
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]


def _api_ready(layout: Layout) -> bool:
    context = ssl.create_default_context(cafile=layout.certificates / "ca.crt")
    try:
        with urllib.request.urlopen(f"{API_URL}/readyz", context=context, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
