"""The progress server's certificate: made once, trusted by pods, renewed before it expires under the same authority."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.shell import tls
from finetune_operator.shell.cluster import SECRET
from finetune_operator.shell.settings import Settings
from finetune_operator.shell.tls import Certificates
from support.builders import NOW
from support.fakes import FakeCluster, finish

TODAY = datetime.now(UTC)
SETTINGS = Settings.from_env({"FINETUNE_NAMESPACE": "finetune"})
HOST = "finetune-operator.finetune.svc"


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(clock=lambda: NOW)


def ensured(cluster: FakeCluster, settings: Settings = SETTINGS, now: datetime = TODAY) -> Certificates:
    return finish(tls.ensure(cluster, settings, now))


def test_the_certificate_is_made_once(cluster: FakeCluster) -> None:
    first = ensured(cluster)
    assert ensured(cluster) == first
    assert cluster.writes == ["create secrets"]
    ((_, namespace, name),) = cluster.objects
    assert (namespace, name) == ("finetune", "finetune-operator-tls")


def test_it_is_renewed_under_the_same_authority(cluster: FakeCluster) -> None:
    """Running pods keep the authority that they were started with."""
    first = ensured(cluster)
    renewed = ensured(cluster, now=TODAY + timedelta(days=330))
    assert renewed.server != first.server
    assert (renewed.ca, renewed.ca_key) == (first.ca, first.ca_key)
    assert cluster.writes == ["create secrets", "update secrets"]


def test_an_authority_that_ends_is_replaced(cluster: FakeCluster) -> None:
    first = ensured(cluster)
    assert ensured(cluster, now=TODAY + timedelta(days=3600)).ca != first.ca


def test_another_address_gets_another_certificate(cluster: FakeCluster) -> None:
    ensured(cluster)
    elsewhere = Settings.from_env({"FINETUNE_PROGRESS_URL": "https://192.0.2.7:10443"})
    assert ensured(cluster, elsewhere).serve(frozenset({"192.0.2.7"}), TODAY)


@pytest.mark.parametrize(
    "data", [None, {}, {"tls.crt": "bm8="}, dict.fromkeys(("ca.crt", "ca.key", "tls.crt", "tls.key"), "bm8=")]
)
def test_a_secret_that_holds_something_else_is_filled(cluster: FakeCluster, data: Any) -> None:
    metadata = {"name": "finetune-operator-tls", "namespace": "finetune"}
    cluster.put(SECRET, {"metadata": metadata, "type": "kubernetes.io/tls", "data": data})
    assert ensured(cluster).serve(tls.hosts(SETTINGS), TODAY)
    assert cluster.writes == ["update secrets"]


def test_two_operators_agree_on_one_certificate(cluster: FakeCluster) -> None:
    other: list[Certificates] = []

    def another_is_faster(_: str) -> None:
        cluster.before = lambda _: None
        other.append(ensured(cluster))

    cluster.before = another_is_faster
    assert ensured(cluster) == other[0]


async def handshake(certificates: Certificates, trusted: bytes, host: str) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load(server_side, certificates)
    client_side = ssl.create_default_context(cadata=trusted.decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    async with server:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname=host)
        writer.close()


async def test_a_pod_trusts_the_server_by_the_authority_it_was_given() -> None:
    certificates = tls.issue(tls.hosts(SETTINGS), TODAY)
    await handshake(certificates, certificates.ca, HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(certificates, certificates.ca, "somebody.else.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(certificates, tls.issue(tls.hosts(SETTINGS), TODAY).ca, HOST)
