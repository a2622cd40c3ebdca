"""oci://registry/repository[:tag]: an artifact as the CNCF ModelPack specification has it, one layer a file.

Each layer also has the title that `oras pull` names its file by.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from oras.auth.utils import parse_auth_header  # type: ignore[import-untyped]
from oras.container import Container  # type: ignore[import-untyped]
from oras.provider import Registry  # type: ignore[import-untyped]
from oras.utils import append_url_params  # type: ignore[import-untyped]

from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.pushing.content import Content, File
from finetune_trainer.pushing.places import SECRET_FIELD, Place, Pushed

REFERENCE = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(?::\d+)?)"
    r"/(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
)
LOCAL = ("localhost", "127.0.0.1")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"
CODE = "application/vnd.cncf.model.code.v1.raw"
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".npz")
DOCUMENT_FILES = ("README.md", "LICENSE", "evaluation.json", "run.json")
TITLE = "org.opencontainers.image.title"
PATH = "org.cncf.model.filepath"
CREATED = "org.opencontainers.image.created"
OURS = "finetune.dev/"
TIMEOUT = (10, 300)
"""Seconds to connect, and without an answer."""
HINT = f"name a Secret with OCI_USERNAME and OCI_PASSWORD, or OCI_CONFIG_JSON, in {SECRET_FIELD}"


class Client(Registry):  # type: ignore[misc]
    """The oras client, made fit for models: files are streamed, and a token is renewed when it has run out.

    It does not sleep and try again by itself: who pushes does so, and resumes with the blobs that are there.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.container = _container(place)
        host: str = self.container.registry
        plain = host.partition(":")[0] in LOCAL or os.environ.get("OCI_PLAIN_HTTP", "").lower() == "true"
        super().__init__(host, insecure=plain, tls_verify=os.environ.get("SSL_CERT_FILE") or True)
        self.password = self._password(os.environ)
        self.authorization: str | None = None

    def _password(self, environment: Mapping[str, str]) -> str | None:
        """As `Authorization: Basic` has it: from variables, from a Docker configuration in one, or in a file."""
        if (name := environment.get("OCI_USERNAME")) and (password := environment.get("OCI_PASSWORD")):
            self.auth.set_basic_auth(name, password)
        elif text := environment.get("OCI_CONFIG_JSON"):
            self.auth._basic_auth = _configured(text, self.container.registry, self.place)
        else:
            chosen = Path(environment.get("DOCKER_CONFIG", "~/.docker"), "config.json").expanduser()
            self.auth.load_configs(self.container, [str(chosen)] if chosen.exists() else [])
        return getattr(self.auth, "_basic_auth", None)

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """One request, and once more with fresh credentials. Raises RunError where the registry refuses."""
        response = self._send(url, method, data, headers, json, stream)
        if response.status_code == 401 and self._log_in(response.headers.get("Www-Authenticate", "")):
            response = self._send(url, method, data, headers, json, stream)
        if response.status_code == 404 and method in ("GET", "HEAD"):
            return response
        if not response.ok:
            raise _refused(response, self.place)
        return response

    def _send(
        self, url: str, method: str, data: Any, headers: Mapping[str, str] | None, json: Any, stream: bool
    ) -> requests.Response:
        """Credentials go to the registry only, not to a store that it sends uploads to."""
        ours = urlsplit(url).netloc == self.container.registry and self.authorization
        sent = {**(headers or {}), **({"Authorization": self.authorization} if ours else {})}
        if hasattr(data, "seek"):
            data.seek(0)
        response: requests.Response = self.session.request(
            method, url, data=data, json=json, headers=sent, stream=stream, verify=self._tls_verify, timeout=TIMEOUT
        )
        return response

    def _log_in(self, challenge: str) -> bool:
        """Answer a challenge: with the password, or with a token for it. Says whether there is something to answer."""
        if challenge.lower().startswith("basic"):
            self.authorization = f"Basic {self.password}" if self.password else None
        else:
            token = self.auth.request_token(parse_auth_header(challenge)) if "realm" in challenge else None
            self.authorization = f"Bearer {token}" if token else None
        return self.authorization is not None

    def put_upload(self, blob: str, container: Container, layer: Mapping[str, Any]) -> requests.Response:
        """A blob in one request, streamed."""
        started = self.do_request(f"{self.prefix}://{container.upload_blob_url()}", "POST")
        target = append_url_params(self._get_location(started, container), {"digest": layer["digest"]})
        kind = {"Content-Type": "application/octet-stream"}
        with open(blob, "rb") as file:
            return self.do_request(target, "PUT", data=file if layer["size"] else b"", headers=kind)

    def probe(self) -> None:
        """Begin an upload and give it up."""
        started = self.do_request(f"{self.prefix}://{self.container.upload_blob_url()}", "POST")
        self._send(self._get_location(started, self.container), "DELETE", None, None, None, False)

    def manifest_digest(self) -> str | None:
        """The digest that the tag has now."""
        url = f"{self.prefix}://{self.container.manifest_url()}"
        response = self.do_request(url, "HEAD", headers={"Accept": MANIFEST})
        return response.headers.get("Docker-Content-Digest") if response.ok else None

    def put_manifest(self, manifest: bytes) -> str:
        """Tag what is there; returns the digest as the registry tells it."""
        url = f"{self.prefix}://{self.container.manifest_url()}"
        response = self.do_request(url, "PUT", data=manifest, headers={"Content-Type": MANIFEST})
        return response.headers.get("Docker-Content-Digest") or _digest(manifest)


def check(place: Place) -> None:
    """Begin an upload and give it up: what asks for the right to push and leaves nothing."""
    with _explained(place):
        Client(place).probe()


def push(place: Place, content: Content) -> Pushed:
    """Layers that the registry lacks, then the manifest that names them all."""
    found = content.as_model()
    layers = [_layer(file) for file in found]
    config = json.dumps(_config(content, found), sort_keys=True).encode()
    manifest = json.dumps(_manifest(content, config, layers), sort_keys=True).encode()
    with _explained(place), tempfile.TemporaryDirectory() as folder:
        client = Client(place)
        digest = client.manifest_digest()
        if digest != _digest(manifest):
            blob = Path(folder, "config.json")
            blob.write_bytes(config)
            for path, layer in [*zip((file.path for file in found), layers, strict=True), (blob, _blob(config))]:
                client.upload_blob(str(path), client.container, layer)
            digest = client.put_manifest(manifest)
    return Pushed(f"oci://{client.container.registry}/{client.container.api_prefix}@{digest}", digest)


def _layer(file: File) -> dict[str, Any]:
    annotations = {TITLE: file.name, PATH: file.name}
    described = {"mediaType": _media_type(file.name), "digest": f"sha256:{file.sha256}", "size": file.size}
    return {**described, "annotations": annotations}


def _media_type(name: str) -> str:
    if name.endswith(WEIGHT_FILES):
        return WEIGHTS
    if name in DOCUMENT_FILES:
        return DOCUMENT
    return CODE if name.endswith(".py") else SETTINGS


def _config(content: Content, found: list[File]) -> dict[str, Any]:
    """What the specification wants to be said of a model; its files are not compressed, so their hashes are DiffIDs."""
    return {
        "descriptor": {"createdAt": content.created, "name": content.name, "family": content.model_type},
        "config": {"format": "safetensors"},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in found]},
    }


def _manifest(content: Content, config: bytes, layers: list[dict[str, Any]]) -> dict[str, Any]:
    ours = {OURS + name: value for name, value in content.provenance().items()}
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": MODEL,
        "config": {"mediaType": CONFIG, **_blob(config)},
        "layers": layers,
        "annotations": {CREATED: content.created, TITLE: content.name, **ours},
    }


def _blob(content: bytes) -> dict[str, Any]:
    return {"digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _container(place: Place) -> Container:
    match = REFERENCE.fullmatch(place.uri)
    if match is None or not (re.search("[.:]", match["host"]) or match["host"] in LOCAL):
        message = f"{place.field}: {place.uri} is no repository of a registry"
        raise ConfigError("InvalidUri", message, "write oci://registry.example/repository:tag, in small letters")
    return Container(f"{match['name']}:{match['tag'] or 'latest'}", registry=match["host"])


def _configured(text: str, host: str, place: Place) -> str | None:
    """The password of a registry in a Docker configuration, as `docker login` or a Secret of Kubernetes has it."""
    try:
        found: str | None = json.loads(text)["auths"].get(host, {}).get("auth")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"{place.field}: OCI_CONFIG_JSON is not a Docker configuration"
        raise ConfigError(
            "InvalidCredentials", message, 'it looks like {"auths": {"registry.example": {…}}}'
        ) from error
    return found


def _refused(response: requests.Response, place: Place) -> RunError:
    """What the registry answered in our words; its own are in `errors`, if it has some."""
    status, said = response.status_code, _said(response)
    if status in (401, 403):
        return AuthError("NotAllowed", f"{place.field}: the registry does not let us push to {place.uri}: {said}", HINT)
    if status == 404:
        return ConfigError("NotFound", f"{place.field}: the registry has no {place.uri}: {said}", "make it there first")
    message = f"{place.field}: the registry did not take {place.uri}: {said}"
    if status >= 500 or status in (408, 429):
        return Unavailable("RegistryUnavailable", message, "try again later")
    return ConfigError("Refused", message, "check the registry, the repository and the tag")


def _said(response: requests.Response) -> str:
    try:
        return str(response.json()["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return f"it answered {response.status_code}"


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """No connection, or one that broke, in our words."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        message = f"{place.field}: the registry of {place.uri} is not trusted: {error}"
        raise ConfigError("NotTrusted", message, "name the file with its CA in SSL_CERT_FILE") from error
    except requests.exceptions.RequestException as error:
        message = f"{place.field}: the registry of {place.uri} did not answer: {error}"
        raise Unavailable("RegistryUnavailable", message, "see that the registry can be reached") from error
