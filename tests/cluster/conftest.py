"""One cluster for all cluster tests, and a namespace of its own for each test or module.

The cluster is one of ours (support.cluster), started for the session where it does not run already; with
FINETUNE_TEST_KUBECONFIG set it is the one which that names.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from support.cluster import Access, Cluster, NamedCluster
from support.cluster.access import NoAuditLog, NoKueue
from support.cluster.cluster import SecondNode

# Every pod of the tests must pass the strictest of Kubernetes' own pod security standards.
POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}
LONGEST_NAME = 40
CALL_REPORT = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps how a test went for its fixtures, which end after it."""
    report = yield
    if report.when == "call":
        item.stash[CALL_REPORT] = report
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skips a test that needs the audit log of a cluster that is not ours."""
    try:
        yield
    except NoAuditLog as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Access]:
    """A running cluster; a test that takes it decides for itself whether it needs images and operator."""
    named = NamedCluster.from_environment()
    if named:
        yield named
        return
    ours = Cluster()
    with ours.started():
        yield ours


@pytest.fixture(scope="session")
def installed_operator(cluster: Access) -> Access:
    """The cluster with the chart installed from the present sources."""
    cluster.install_operator()
    return cluster


@pytest.fixture(scope="module")
def kueue(cluster: Access) -> Iterator[Access]:
    """The cluster with Kueue's manager, which is gone again when the next module's tests run."""
    try:
        cluster.install_kueue()
    except NoKueue as error:
        pytest.skip(str(error))
    cluster.restart_operator()
    yield cluster
    cluster.remove_kueue()
    cluster.restart_operator()


@pytest.fixture
def second_node(cluster: Access) -> Iterator[SecondNode]:
    """A node beside the one that every cluster has, for a test that loses it."""
    if not isinstance(cluster, Cluster):
        pytest.skip("a node can be taken from a cluster of our own only")
    with cluster.second_node() as node:
        yield node


@pytest.fixture
def namespace(cluster: Access, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test; what is in it is shown where the test fails."""
    with _temporary_namespace(cluster, request.node.name) as name:
        yield name
        report = request.node.stash.get(CALL_REPORT, None)
        if report is not None and report.failed:
            report.sections.append((f"namespace {name}", cluster.describe(name)))


@pytest.fixture(scope="module")
def module_namespace(cluster: Access, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for all tests of a module."""
    with _temporary_namespace(cluster, request.module.__name__.rpartition(".")[2]) as name:
        yield name


@contextmanager
def _temporary_namespace(cluster: Access, title: str) -> Iterator[str]:
    name = _unused_name(cluster, re.sub(r"[^a-z0-9]+", "-", title.lower()).removeprefix("test-")[:LONGEST_NAME])
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": POD_SECURITY}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    # Pods that save for two minutes when they are told to stop would take the processor from the next test.
    cluster.kubectl("delete", "pods", "--all", f"--namespace={name}", "--grace-period=1", "--wait=false")
    cluster.remove_claims(name)


def _unused_name(cluster: Access, wanted: str) -> str:
    """The name, numbered where a cluster that is used again still has a namespace of that name."""
    number, name = 1, wanted.strip("-")
    while cluster.get("namespace", name) is not None:
        number += 1
        name = f"{wanted.strip('-')}-{number}"
    return name
