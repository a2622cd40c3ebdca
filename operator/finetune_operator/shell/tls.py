"""The progress server's certificate: one Secret in the operator's namespace, made when absent, renewed in time."""

from __future__ import annotations

import base64
import ipaddress
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_api.names import LABEL_MANAGED_BY, MANAGER
from finetune_operator.shell.cluster import SECRET, Cluster, Manifest
from finetune_operator.shell.errors import Conflict
from finetune_operator.shell.settings import Settings

SECRET_NAME = "finetune-operator-tls"
CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of our own and the server's certificate, all in PEM."""

    ca: bytes
    ca_key: bytes
    server: bytes
    server_key: bytes

    def data(self) -> dict[str, str]:
        values = {"ca.crt": self.ca, "ca.key": self.ca_key, "tls.crt": self.server, "tls.key": self.server_key}
        return {name: base64.b64encode(value).decode() for name, value in values.items()}

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> Certificates:
        """Raises KeyError or ValueError where the Secret does not hold them."""
        parts = (base64.b64decode(data[name]) for name in ("ca.crt", "ca.key", "tls.crt", "tls.key"))
        return cls(*parts)

    def serve(self, hosts: frozenset[str], now: datetime) -> bool:
        """Whether they are good for `hosts` for some time to come."""
        authority, server = x509.load_pem_x509_certificate(self.ca), x509.load_pem_x509_certificate(self.server)
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        covered = {str(name.value) for name in names}
        return hosts <= covered and min(authority.not_valid_after_utc, server.not_valid_after_utc) > now + RENEW_BEFORE


def hosts(settings: Settings) -> frozenset[str]:
    """Names under which pods may reach the progress server."""
    service = f"{settings.service}.{settings.namespace}.svc"
    configured = urlsplit(settings.progress_url).hostname or service
    return frozenset({service, f"{service}.cluster.local", configured})


def issue(names: frozenset[str], now: datetime, former: Certificates | None = None) -> Certificates:
    """Certificates for `names`. A former authority that still lasts is kept: running pods trust it."""
    lasting = former is not None and x509.load_pem_x509_certificate(former.ca).not_valid_after_utc > now + SERVER_LIFE
    ca, ca_key = (former.ca, former.ca_key) if former and lasting else _authority(now)
    server, server_key = _server(names, now, ca, ca_key)
    return Certificates(ca, ca_key, server, server_key)


def _authority(now: datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{MANAGER} progress CA")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def _server(names: frozenset[str], now: datetime, ca: bytes, ca_key: bytes) -> tuple[bytes, bytes]:
    authority, signer = x509.load_pem_x509_certificate(ca), serialization.load_pem_private_key(ca_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, MANAGER)])
    certificate = (
        _builder(name, authority.subject, key.public_key(), now, SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in sorted(names)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + life)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def ensure(cluster: Cluster, settings: Settings, now: datetime) -> Certificates:
    """The certificates in the Secret, made or renewed where they are missing, foreign or about to expire."""
    secret = await cluster.get(SECRET, settings.namespace, SECRET_NAME)
    former = _read(secret) if secret else None
    wanted = hosts(settings)
    if former is not None and former.serve(wanted, now):
        return former
    fresh = issue(wanted, now, former)
    try:
        if secret is None:
            await cluster.create(SECRET, _secret(settings.namespace, fresh))
        else:
            await cluster.replace(SECRET, {**secret, "data": fresh.data()})
    except Conflict:
        return await ensure(cluster, settings, now)
    return fresh


def _read(secret: Manifest) -> Certificates | None:
    try:
        found = Certificates.from_data(secret.get("data") or {})
        x509.load_pem_x509_certificate(found.ca)
        x509.load_pem_x509_certificate(found.server)
        serialization.load_pem_private_key(found.ca_key, None)
        serialization.load_pem_private_key(found.server_key, None)
    except (KeyError, ValueError, UnsupportedAlgorithm):
        return None
    return found


def _secret(namespace: str, certificates: Certificates) -> Manifest:
    metadata = {"name": SECRET_NAME, "namespace": namespace, "labels": {LABEL_MANAGED_BY: MANAGER}}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata}
    return {**secret, "data": certificates.data()}


def load(context: ssl.SSLContext, certificates: Certificates) -> None:
    """Serve with these certificates from the next handshake on."""
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        chain.write_bytes(certificates.server)
        key.touch(mode=0o600)
        key.write_bytes(certificates.server_key)
        context.load_cert_chain(chain, key)
