"""Merging a podTemplate over the pod we make, and refusing one that would loosen the pod's security.

Service accounts, images and folders of nodes are in `limits`: a platform may allow them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, ValidationInfo

from finetune_api.base import Document
from finetune_api.manifest import Problem, problems_of
from finetune_api.names import RESERVED_ENV

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists that Kubernetes merges by a key, as `kubectl patch` does; other lists are replaced."""
REPLACED_BY_NAME = ("volumes",)
"""Lists whose items are exclusive choices inside: an item replaces the one of the same name."""


def merge_pod(base: Any, over: Any) -> dict[str, Any]:
    """`over` merged into `base`, both pod templates or parts of one. Neither is changed."""
    result = dict(base)
    for name, item in over.items():
        result[name] = _merge_item(name, result.get(name), item)
    return result


def _merge_item(name: str, former: Any, item: Any) -> Any:
    if isinstance(former, Mapping) and isinstance(item, Mapping):
        return merge_pod(former, item)
    if not isinstance(former, list) or not isinstance(item, list):
        return item
    if name in REPLACED_BY_NAME:
        return list({entry["name"]: entry for entry in (*former, *item)}.values())
    if name in MERGE_KEYS:
        return _merge_list(MERGE_KEYS[name], former, item)
    return item


def _merge_list(key: str, former: list[Any], over: list[Any]) -> list[Any]:
    result = {entry[key]: entry for entry in former}
    for entry in over:
        result[entry[key]] = merge_pod(result.get(entry[key], {}), entry)
    return list(result.values())


PLATFORMS_OWN = {"platforms_own": True}
"""Context in which permissions are not asked for."""


def _only(allowed: Callable[[Any], bool], message: str) -> AfterValidator:
    """A permission: what is not `allowed` may stand in a podTemplate of the platform's own only."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if info.context != PLATFORMS_OWN and not allowed(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _not_reserved(name: str) -> str:
    if name in RESERVED_ENV:
        raise ValueError("the operator sets this variable; choose another name")
    return name


NO_HOST = "a training pod gets no access to its host; remove the field"
NOT_LOOSER = "the security context of a training pod cannot be loosened; remove the field"
NotTrue = Annotated[bool | None, _only(lambda value: not value, NOT_LOOSER)]
NotFalse = Annotated[bool | None, _only(lambda value: value is not False, NOT_LOOSER)]
NoHost = Annotated[bool | None, _only(lambda value: not value, NO_HOST)]


class _Part(Document):
    """What we look at in a part of a PodSpec; the API server judges the rest."""

    model_config = ConfigDict(extra="ignore")


Confined = Annotated[str | None, _only(lambda kind: kind != "Unconfined", NOT_LOOSER)]


class _Capabilities(_Part):
    add: Annotated[list[str], _only(lambda added: not added, NOT_LOOSER)] = []
    drop: Annotated[list[str] | None, _only(lambda dropped: dropped is None or "ALL" in dropped, NOT_LOOSER)] = None


class _Profile(_Part):
    type: Confined = None


class _WindowsOptions(_Part):
    host_process: NoHost = None


class _SecurityContext(_Part):
    run_as_non_root: NotFalse = None
    run_as_user: Annotated[int | None, _only(lambda user: user != 0, NOT_LOOSER)] = None
    privileged: NotTrue = None
    allow_privilege_escalation: NotTrue = None
    read_only_root_filesystem: NotFalse = None
    capabilities: _Capabilities = _Capabilities()
    seccomp_profile: _Profile = _Profile()
    app_armor_profile: _Profile = _Profile()
    proc_mount: Annotated[str | None, _only(lambda kind: kind != "Unmasked", NOT_LOOSER)] = None
    windows_options: _WindowsOptions = _WindowsOptions()


class _EnvVar(_Part):
    name: Annotated[str, AfterValidator(_not_reserved)]


class _Port(_Part):
    container_port: int
    host_port: Annotated[int | None, _only(lambda port: not port, NO_HOST)] = None


class _VolumeMount(_Part):
    mount_path: str


class _VolumeDevice(_Part):
    device_path: str


class _HostPath(_Part):
    path: str


class _ImageVolume(_Part):
    reference: str | None = None


class _Volume(_Part):
    name: str
    host_path: _HostPath | None = None
    image: _ImageVolume | None = None


class _ContainerResources(_Part):
    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    claims: list[Any] = []


class _Container(_Part):
    name: str
    image: str | None = None
    resources: _ContainerResources = _ContainerResources()
    env: list[_EnvVar] = []
    ports: list[_Port] = []
    volume_mounts: list[_VolumeMount] = []
    volume_devices: list[_VolumeDevice] = []
    security_context: _SecurityContext = _SecurityContext()


class _NamedItem(_Part):
    name: str


class _HostAlias(_Part):
    ip: str


class _Spread(_Part):
    topology_key: str


class _PodSpec(_Part):
    host_network: NoHost = None
    host_pid: NoHost = Field(None, alias="hostPID")
    host_ipc: NoHost = Field(None, alias="hostIPC")
    security_context: _SecurityContext = _SecurityContext()
    service_account_name: str | None = None
    service_account: str | None = None
    containers: list[_Container] = []
    init_containers: list[_Container] = []
    volumes: list[_Volume] = []
    image_pull_secrets: list[_NamedItem] = []
    host_aliases: list[_HostAlias] = []
    topology_spread_constraints: list[_Spread] = []


class _PodTemplate(_Part):
    spec: _PodSpec = _PodSpec()


def problems_of_template(template: Any, place: str, platforms_own: bool = False) -> list[Problem]:
    """What of the podTemplate at `place` is refused: a wrong shape, the operator's variables, and access to the host
    or looser security, unless it is the `platforms_own`.
    """
    try:
        _PodTemplate.model_validate(template, context=PLATFORMS_OWN if platforms_own else None)
    except ValidationError as error:
        found = problems_of(error, _PodTemplate)
        return [Problem(f"{place}.{problem.field}", problem.reason, problem.hint) for problem in found]
    return []
