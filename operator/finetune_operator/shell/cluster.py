"""The API server, as plain dictionaries: the protocol that the shell speaks, and its real implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from finetune_api.names import GROUP, JOBS, LABEL_MANAGED_BY, MANAGER, RUNTIMES, VERSION
from finetune_operator.shell.errors import NotFound, Unreachable, error_of

Manifest = dict[str, Any]

MANAGED = f"{LABEL_MANAGED_BY}={MANAGER}"
REQUEST_SECONDS = 30
LIST_CHUNK = 500


@dataclass(frozen=True)
class Kind:
    """A resource of the API server: its group and version, and its name in paths."""

    api_version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        root = "/apis/" if "/" in self.api_version else "/api/"
        parts = [root + self.api_version, *(("namespaces", namespace) if namespace else ()), self.plural]
        return "/".join([*parts, *(part for part in (name, subresource) if part)])


JOB = Kind(f"{GROUP}/{VERSION}", JOBS)
RUNTIME = Kind(f"{GROUP}/{VERSION}", RUNTIMES)
BATCH_JOB = Kind("batch/v1", "jobs")
POD = Kind("v1", "pods")
SERVICE = Kind("v1", "services")
CONFIG_MAP = Kind("v1", "configmaps")
SECRET = Kind("v1", "secrets")
NODE = Kind("v1", "nodes")
EVENT = Kind("v1", "events")
LEASE = Kind("coordination.k8s.io/v1", "leases")
POD_GROUP = Kind("scheduling.x-k8s.io/v1alpha1", "podgroups")
WORKLOAD = Kind("kueue.x-k8s.io/v1beta1", "workloads")
CHILD_KINDS = {"ConfigMap": CONFIG_MAP, "Service": SERVICE, "PodGroup": POD_GROUP, "Job": BATCH_JOB}


@dataclass(frozen=True)
class Listing:
    """The objects of a kind at one moment, which `version` names."""

    items: list[Manifest]
    version: int


class Cluster(Protocol):
    """What the shell asks of an API server. Every method may raise a ClusterError."""

    async def list(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> Listing: ...
    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None: ...
    async def create(self, kind: Kind, manifest: Manifest) -> Manifest: ...
    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest: ...
    async def delete(self, kind: Kind, namespace: str, name: str) -> None: ...
    async def patch_status(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest: ...
    async def read(self, path: str) -> Manifest: ...


CountRequest = Callable[[str, str, int], None]
"""Told of every request: verb, resource, status code (0 for no answer)."""


class ApiCluster:
    """The real API server, through the official client's transport; its typed classes cost 100 MiB."""

    def __init__(self, client: ApiClient, count: CountRequest) -> None:
        self._client = client
        self._count = count

    async def list(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> Listing:
        found: list[Manifest] = []
        chosen = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(LIST_CHUNK)} | {name: value for name, value in chosen.items() if value}
        while True:
            answer = await self._request("GET", kind.path(namespace), "list", kind.plural, query=query)
            found += answer.get("items") or []
            following = answer["metadata"].get("continue")
            if not following:
                return Listing(found, int(answer["metadata"]["resourceVersion"]))
            query["continue"] = following

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        try:
            return await self._request("GET", kind.path(namespace, name), "get", kind.plural)
        except NotFound:
            return None

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        path = kind.path(manifest["metadata"]["namespace"])
        return await self._request("POST", path, "create", kind.plural, manifest)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        path = kind.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        return await self._request("PUT", path, "update", kind.plural, manifest)

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", kind.path(namespace, name), "delete", kind.plural, options)
        except NotFound:
            return

    async def patch_status(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        path = kind.path(namespace, name, "status")
        return await self._request("PATCH", path, "patch", f"{kind.plural}/status", patch)

    async def read(self, path: str) -> Manifest:
        return await self._request("GET", path, "get", path)

    async def _request(
        self,
        method: str,
        path: str,
        verb: str,
        resource: str,
        body: Manifest | None = None,
        query: dict[str, str] | None = None,
    ) -> Manifest:
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = await self._headers("application/merge-patch+json" if method == "PATCH" else "application/json")
        try:
            response = await self._client.call_api(method, url, headers, body=body, _request_timeout=REQUEST_SECONDS)
            content: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._count(verb, resource, 0)
            raise Unreachable(f"{method} {path}: {error or type(error).__name__}") from error
        self._count(verb, resource, response.status)
        if response.status < 300:
            return _json(content)
        raise error_of(response.status, _message(content), _retry_after(response.headers.get("Retry-After")))

    async def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": "application/json, */*;q=0.5", "Content-Type": content_type, "User-Agent": MANAGER}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        return headers


def _json(content: bytes) -> Manifest:
    value: Manifest = json.loads(content) if content else {}
    return value


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:500]


def _retry_after(header: str | None) -> float | None:
    return float(header) if header and header.isdigit() else None


async def connect(kubeconfig: str | None) -> ApiClient:
    """A client for the cluster of `kubeconfig`, or for the one that this pod runs in."""
    configuration = Configuration()
    if kubeconfig:
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, client_configuration=configuration
        )
    else:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return ApiClient(configuration)
