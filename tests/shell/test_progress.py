"""The progress server: Kubeflow's protocol, and only live pods of the job itself are heard.

Tokens are signed with real keys and checked as in a cluster; only the API server that publishes the keys is a fake.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import rsa
from prometheus_client import CollectorRegistry

from finetune_api.names import PROGRESS_PATH, TOKEN_AUDIENCE
from finetune_operator.core.report import Report
from finetune_operator.shell.cluster import JOB, POD
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.progress import MAX_BODY_BYTES, ProgressServer
from finetune_operator.shell.store import Key, Store
from finetune_operator.shell.tokens import DISCOVERY_PATH, KEYS_PATH, TokenVerifier
from support.builders import NOW, a_job, a_pod
from support.fakes import FakeCluster

ISSUER = "https://kubernetes.default.svc.cluster.local"
PATH = PROGRESS_PATH.format(namespace="team-a", name="reviews")
REPORT = {"trainerStatus": {"progressPercentage": 25, "metrics": [{"name": "step", "value": "20"}]}}
KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("one", "two")}


def published(*names: str) -> dict[str, Any]:
    keys = [jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True) for name in names]
    return {"keys": [{**key, "kid": name, "alg": "RS256", "use": "sig"} for key, name in zip(keys, names, strict=True)]}


def a_token(key: str = "one", pod: str = a_pod().name, uid: str | None = None, **changes: Any) -> str:
    bound = {"namespace": "team-a", "pod": {"name": pod, "uid": uid or f"uid-of-{pod}"}}
    claims = {
        "iss": ISSUER,
        "aud": [TOKEN_AUDIENCE],
        "iat": int(time.time()),
        "exp": int(time.time()) + 600,
        "sub": "system:serviceaccount:team-a:default",
        "kubernetes.io": bound,
        **changes,
    }
    return jwt.encode({name: value for name, value in claims.items() if value}, KEYS[key], "RS256", {"kid": key})


@dataclass
class Setup:
    client: TestClient[Any, Any]
    cluster: FakeCluster
    store: Store
    taken: list[tuple[Key, Report]] = field(default_factory=list)
    now: float = 0.0

    async def send(self, token: str | None, path: str = PATH, body: Any = REPORT) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(path, headers=headers, data=data) as response:
            return response.status, await response.json()


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    cluster, store = FakeCluster(clock=lambda: NOW), Store()
    cluster.documents = {DISCOVERY_PATH: {"issuer": ISSUER}, KEYS_PATH: published("one")}
    for version, pod in enumerate((a_pod(0), a_pod(1).succeeded()), start=1):
        body = pod.manifest
        body["metadata"]["resourceVersion"] = str(version)
        store.put(POD, body)
    store.put(JOB, a_job().manifest)
    taken: list[tuple[Key, Report]] = []

    async def take(key: Key, report: Report) -> None:
        taken.append((key, report))

    def clock() -> float:
        return made.now

    server = ProgressServer(TokenVerifier(cluster, clock), store, take, Metrics(CollectorRegistry()))
    async with TestClient(TestServer(server.application())) as client:
        made = Setup(client, cluster, store, taken)
        yield made


async def test_a_live_pod_is_heard_and_gets_back_what_was_understood(setup: Setup) -> None:
    assert await setup.send(a_token()) == (200, REPORT)
    ((key, report),) = setup.taken
    assert (key, report.run, report.attempt) == (Key("team-a", "reviews"), 1, 1)
    assert (report.progress.percentage, report.progress.step) == (25, 20)


@pytest.mark.parametrize(
    ("token", "code"),
    [
        pytest.param(None, 401, id="no token"),
        pytest.param("not.a.token", 401, id="no JWT"),
        pytest.param(a_token("two"), 401, id="a key that the cluster does not publish"),
        pytest.param(a_token(aud=["https://kubernetes"]), 401, id="for another audience"),
        pytest.param(a_token(iss="https://elsewhere"), 401, id="of another issuer"),
        pytest.param(a_token(exp=int(time.time()) - 600), 401, id="expired"),
        pytest.param(a_token(exp=None), 401, id="never expires"),
        pytest.param(a_token(**{"kubernetes.io": {"namespace": "team-a"}}), 401, id="bound to no pod"),
        pytest.param(a_token(pod="other-0", uid="u"), 403, id="a pod of something else"),
        pytest.param(a_token(uid="uid-of-an-earlier-pod"), 403, id="an earlier pod of the same name"),
        pytest.param(a_token(pod=a_pod(1).name), 403, id="a pod that has ended"),
        pytest.param(
            a_token(**{"kubernetes.io": {"namespace": "team-b", "pod": {"name": "p", "uid": "u"}}}),
            403,
            id="a pod of another namespace",
        ),
    ],
)
async def test_who_is_not_heard(setup: Setup, token: str | None, code: int) -> None:
    status, body = await setup.send(token)
    assert (status, body["kind"], body["code"]) == (code, "Status", code)
    assert body["message"]
    assert setup.taken == []


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        pytest.param(PROGRESS_PATH.format(namespace="team-a", name="other"), REPORT, 404, id="no such job"),
        pytest.param("/anything", REPORT, 404, id="no such path"),
        pytest.param(PATH, b"nonsense", 422, id="no JSON"),
        pytest.param(PATH, {"trainerStatus": {"metrics": "many"}}, 422, id="not as the protocol says"),
        pytest.param(PATH, b"x" * (MAX_BODY_BYTES + 1), 413, id="too large"),
    ],
)
async def test_what_is_not_understood(setup: Setup, path: str, body: Any, code: int) -> None:
    status, answer = await setup.send(a_token(), path, body)
    assert (status, answer["status"], answer["code"]) == (code, "Failure", code)
    assert setup.taken == []


async def test_keys_are_fetched_again_when_the_cluster_has_a_new_one(setup: Setup) -> None:
    assert (await setup.send(a_token("one")))[0] == 200
    setup.cluster.documents[KEYS_PATH] = published("one", "two")
    assert (await setup.send(a_token("two")))[0] == 401
    setup.now += 61
    assert (await setup.send(a_token("two")))[0] == 200


async def test_strangers_cannot_make_us_ask_the_api_server(setup: Setup) -> None:
    for _ in range(20):
        await setup.send(a_token("two"))
    assert setup.cluster.reads == [f"get {DISCOVERY_PATH}", f"get {KEYS_PATH}"]


async def test_keys_that_cannot_be_read_are_nobodys_fault(setup: Setup) -> None:
    documents, setup.cluster.documents = setup.cluster.documents, {}
    assert (await setup.send(a_token()))[0] == 503
    setup.cluster.documents = documents
    setup.now += 6
    assert (await setup.send(a_token()))[0] == 200
