"""The cluster's certificate authority, its certificates, and the kubeconfigs made from them."""

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.cluster.layout import API_SERVICE_ADDRESS, API_URL, CLUSTER_DOMAIN, HOST_ADDRESS, Layout, Node

LIFETIME = timedelta(days=365)
API_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
    HOST_ADDRESS,
    API_SERVICE_ADDRESS,
)


@dataclass(frozen=True)
class Client:
    """A user of the API server: the name of its files, its user name and its groups."""

    file: str
    user: str
    groups: tuple[str, ...] = ()


ADMIN = Client("admin", "admin", ("system:masters",))
API_SERVER_TO_KUBELET = Client("kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",))
CONTROLLER_MANAGER = Client("controller-manager", "system:kube-controller-manager")
SCHEDULER = Client("scheduler", "system:kube-scheduler")
PROXY = Client("proxy", "system:kube-proxy")
DNS = Client("dns", "coredns")
CLIENTS = (ADMIN, API_SERVER_TO_KUBELET, CONTROLLER_MANAGER, SCHEDULER, PROXY, DNS)


def kubelet(node: Node) -> Client:
    """The user that a node's kubelet is."""
    return Client(node.program("kubelet"), f"system:node:{node.name}", ("system:nodes",))


def kubelet_server(node: Node) -> str:
    """The name of the files of the certificate with which a node's kubelet answers."""
    return node.program("kubelet-server")


@dataclass(frozen=True)
class Authority:
    """Signs certificates and writes them, with their keys, as PEM files into a directory."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, directory: Path) -> "Authority":
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("finetune-test-cluster")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = _builder(name, name, key.public_key()).add_extension(constraints, critical=True)
        authority = cls(directory, key, certificate.sign(key, hashes.SHA256()))
        authority.path.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
        return authority

    @property
    def path(self) -> Path:
        return self.directory / "ca.crt"

    def issue_server(self, file: str, names: Sequence[str]) -> None:
        """Writes file.crt and file.key for a server with these DNS names and addresses."""
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        self._issue(file, _name(file), ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def issue_client(self, client: Client) -> None:
        """Writes the client's certificate, its key, and a kubeconfig that uses them."""
        self._issue(client.file, _name(client.user, client.groups), ExtendedKeyUsageOID.CLIENT_AUTH)
        self._write_kubeconfig(client)

    def _issue(
        self,
        file: str,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self.certificate.subject, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        (self.directory / f"{file}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        _write_key(self.directory / f"{file}.key", key)

    def _write_kubeconfig(self, client: Client) -> None:
        def embedded(path: Path) -> str:
            return base64.b64encode(path.read_bytes()).decode()

        user = {
            "client-certificate-data": embedded(self.directory / f"{client.file}.crt"),
            "client-key-data": embedded(self.directory / f"{client.file}.key"),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": API_URL, "certificate-authority-data": embedded(self.path)}}
            ],
            "users": [{"name": client.user, "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": client.user}}],
            "current-context": "c",
        }
        kubeconfig(self.directory, client).write_text(yaml.safe_dump(content))


def kubeconfig(directory: Path, client: Client) -> Path:
    """The kubeconfig that issue_client wrote."""
    return directory / f"{client.file}.kubeconfig"


def create_all(layout: Layout) -> None:
    """Makes every certificate, kubeconfig and key that the cluster's components need, on both nodes."""
    authority = Authority.create(layout.certificates)
    authority.issue_server("apiserver", API_NAMES)
    for node in layout.nodes:
        authority.issue_server(kubelet_server(node), (node.name, node.address))
    for client in (*CLIENTS, *map(kubelet, layout.nodes)):
        authority.issue_client(client)
    _create_service_account_key(layout.certificates)


def _create_service_account_key(directory: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(directory / "service-account.key", key)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "service-account.pub").write_bytes(public)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
