"""The client, over real HTTP: paths, media types, chunked lists, and what each answer means."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.shell import errors
from finetune_operator.shell.cluster import BATCH_JOB, CONFIG_MAP, JOB, NODE, POD, ApiCluster, Kind

Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Server:
    """Answers what it is told to, and keeps what it was asked."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)
    counted: list[tuple[str, str, int]] = field(default_factory=list)
    api: ApiCluster = field(init=False)

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        media_type = request.headers.get("Content-Type", "") if text else ""
        self.asked.append((request.method, request.path_qs, media_type, json.loads(text) if text else None))
        status, body, headers = self.answers.pop(0)
        return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)

    def count(self, verb: str, resource: str, code: int) -> None:
        self.counted.append((verb, resource, code))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.handle)
    async with TestServer(application) as running:
        configuration = Configuration(host=str(running.make_url("")).rstrip("/"))
        configuration.api_key["BearerToken"] = "bearer secret"
        async with ApiClient(configuration) as client:
            made.api = ApiCluster(client, made.count)
            yield made


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "subresource", "path"),
    [
        (JOB, "a", "b", "status", "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/b/status"),
        (BATCH_JOB, "a", None, None, "/apis/batch/v1/namespaces/a/jobs"),
        (POD, None, None, None, "/api/v1/pods"),
        (NODE, None, "n", None, "/api/v1/nodes/n"),
    ],
)
def test_paths(kind: Kind, namespace: str | None, name: str | None, subresource: str | None, path: str) -> None:
    assert kind.path(namespace, name, subresource) == path


async def test_a_list_is_read_in_chunks(server: Server) -> None:
    server.answers = [
        (200, {"items": [{"n": 1}], "metadata": {"resourceVersion": "7", "continue": "next"}}, {}),
        (200, {"items": [{"n": 2}], "metadata": {"resourceVersion": "7"}}, {}),
    ]
    listing = await server.api.list(POD, "a", "x=y")
    assert ([item["n"] for item in listing.items], listing.version) == ([1, 2], 7)
    assert [path for _, path, _, _ in server.asked] == [
        "/api/v1/namespaces/a/pods?limit=500&labelSelector=x%3Dy",
        "/api/v1/namespaces/a/pods?limit=500&labelSelector=x%3Dy&continue=next",
    ]


async def test_writes(server: Server) -> None:
    manifest = {"metadata": {"name": "b", "namespace": "a"}}
    server.answers = [(201, manifest, {}), (200, manifest, {}), (200, {}, {}), (200, manifest, {})]
    await server.api.create(CONFIG_MAP, manifest)
    await server.api.replace(CONFIG_MAP, manifest)
    await server.api.delete(BATCH_JOB, "a", "b")
    await server.api.patch_status(JOB, "a", "b", {"status": {}})
    assert [(method, path, media) for method, path, media, _ in server.asked] == [
        ("POST", "/api/v1/namespaces/a/configmaps", "application/json"),
        ("PUT", "/api/v1/namespaces/a/configmaps/b", "application/json"),
        ("DELETE", "/apis/batch/v1/namespaces/a/jobs/b", "application/json"),
        ("PATCH", "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/b/status", "application/merge-patch+json"),
    ]
    assert server.asked[2][3]["propagationPolicy"] == "Background"
    assert server.counted[-1] == ("patch", "finetunejobs/status", 200)


async def test_what_is_not_there(server: Server) -> None:
    server.answers = [(404, {"message": "no"}, {})] * 2
    assert await server.api.get(NODE, None, "n") is None
    await server.api.delete(BATCH_JOB, "a", "b")


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        pytest.param(409, {"message": "changed"}, errors.Conflict, "changed", id="conflict"),
        pytest.param(403, {"message": "exceeded quota"}, errors.Refused, "exceeded quota", id="quota"),
        pytest.param(422, {"message": "spec.x: no"}, errors.Refused, "spec.x: no", id="invalid"),
        pytest.param(404, {"message": "no CRD"}, errors.NotFound, "no CRD", id="not found"),
        pytest.param(500, {"message": "etcd"}, errors.Unreachable, "etcd", id="fault of the server"),
        pytest.param(502, "<html>", errors.Unreachable, "html", id="something in between"),
    ],
)
async def test_what_an_answer_means(
    server: Server, status: int, body: Any, error: type[errors.ClusterError], text: str
) -> None:
    server.answers = [(status, body, {})]
    with pytest.raises(error, match=text):
        await server.api.create(CONFIG_MAP, {"metadata": {"name": "b", "namespace": "a"}})


async def test_only_what_asking_again_cannot_help_is_final(server: Server) -> None:
    server.answers = [(403, {"message": "quota"}, {}), (422, {"message": "invalid"}, {})]
    finals = []
    for _ in range(2):
        with pytest.raises(errors.Refused) as caught:
            await server.api.create(CONFIG_MAP, {"metadata": {"name": "b", "namespace": "a"}})
        finals.append(caught.value.final)
    assert finals == [False, True]


async def test_a_busy_server_says_when_to_come_back(server: Server) -> None:
    server.answers = [(429, {"message": "slow down"}, {"Retry-After": "7"})]
    with pytest.raises(errors.Unreachable) as caught:
        await server.api.list(POD, None)
    assert caught.value.retry_after == 7


async def test_no_answer_is_counted_and_told() -> None:
    counted: list[tuple[str, str, int]] = []
    async with ApiClient(Configuration(host="http://127.0.0.1:1")) as client:
        api = ApiCluster(client, lambda *request: counted.append(request))
        with pytest.raises(errors.Unreachable, match="GET /api/v1/pods"):
            await api.list(POD, None)
    assert counted == [("list", "pods", 0)]
