"""The pod of a training node: container, environment, volumes, security context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api import names
from finetune_api.evaluation import sources_of
from finetune_api.runtime import RuntimeVolume
from finetune_operator.core import programs
from finetune_operator.core.plan import Plan, claims
from finetune_operator.core.podtemplate import merge_pod
from finetune_operator.core.scheduling import rendezvous_host

USER = 65532
TOKEN_SECONDS = 3600
GRACE_MARGIN_SECONDS = 15
"""Time between the trainer's own deadline for a save and SIGKILL."""

Part = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """What the operator gives to every pod: where to report progress, and what starts programs that are not ours."""

    url: str
    """Base URL of the progress server."""
    ca: str
    """Its CA in PEM."""
    launcher: str = ""
    """The text of launch.py."""


def pod_template(plan: Plan, labels: dict[str, str], endpoint: Endpoint) -> Part:
    """Ours, the runtime's and job's podTemplate merged over it, our labels on top."""
    ours = {"spec": _pod_spec(plan, endpoint)}
    merged = merge_pod(ours, plan.pod_template.to_dict())
    metadata = merged.get("metadata", {})
    merged["metadata"] = {**metadata, "labels": {**metadata.get("labels", {}), **labels}}
    return merged


def _pod_spec(plan: Plan, endpoint: Endpoint) -> Part:
    subdomain = {"subdomain": plan.service} if plan.nodes > 1 else {}
    return {
        **subdomain,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": plan.config.checkpoint.grace_seconds + GRACE_MARGIN_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(plan, endpoint)],
        "volumes": _volumes(plan),
    }


def _container(plan: Plan, endpoint: Endpoint) -> Part:
    return {
        "name": names.CONTAINER,
        "image": plan.image,
        **programs.command(plan),
        "env": _environment(plan, endpoint),
        "ports": [{"name": "metrics", "containerPort": names.METRICS_PORT}],
        "resources": _resources(plan),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(plan),
    }


def _environment(plan: Plan, endpoint: Endpoint) -> list[Part]:
    job = plan.config.job
    path = names.PROGRESS_PATH.format(namespace=job.namespace, name=job.name)
    values = {
        "HOME": names.SCRATCH_DIR,
        "MASTER_ADDR": rendezvous_host(plan),
        "MASTER_PORT": str(names.MASTER_PORT),
        names.ENV_RUN_CONFIG: f"{names.CONFIG_DIR}/{names.RUN_CONFIG_FILE}",
        names.ENV_SERVER_URL: f"{endpoint.url}{path}",
        names.ENV_SERVER_CA: f"{names.CONFIG_DIR}/{names.CA_FILE}",
        names.ENV_SERVER_TOKEN: f"{names.TOKEN_DIR}/{names.TOKEN_FILE}",
    }
    chosen = {variable.name for variable in plan.env}
    own: list[Part] = [{"name": name, "value": value} for name, value in values.items() if name not in chosen]
    fields = {names.ENV_POD_NAME: "metadata.name", names.ENV_NODE_NAME: "spec.nodeName"}
    own += [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    own += programs.environment(plan)
    return [*own, *_from_secrets(plan), *({"name": item.name, "value": item.value} for item in plan.env)]


def _from_secrets(plan: Plan) -> list[Part]:
    """The documented keys of every Secret that is named; of two with the same key the model's, last here, wins."""
    config = plan.config
    read = [source for _, source in sources_of(config.dataset, config.evaluation)]
    trackers = (tracker.secret_ref for tracker in config.tracking)
    others = (config.output.secret_ref, *(source.secret_ref for source in read), *trackers)
    references = [*others, config.model.secret_ref]
    secrets = dict.fromkeys(reference.name for reference in reversed(references) if reference)
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
        for secret in reversed(secrets)
        for key in names.SECRET_KEYS
    ]


def _resources(plan: Plan) -> Part:
    wanted = plan.config.resources
    amounts = {"cpu": wanted.cpu, "memory": wanted.memory}
    amounts[wanted.gpu_resource] = str(wanted.gpus_per_node) if wanted.gpus_per_node else None
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    return {"requests": given, "limits": dict(given)} if given else {}


def _volumes(plan: Plan) -> list[Part]:
    token = {"audience": names.TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": names.TOKEN_FILE}
    shared_memory = plan.config.resources.shared_memory
    return [
        {"name": "config", "configMap": {"name": plan.name}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "scratch", "emptyDir": {}},
        *(
            [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}}]
            if shared_memory
            else []
        ),
        *(
            {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
            for claim, volume in claim_volumes(plan).items()
        ),
        *({"name": _runtime_volume(volume), **_source(volume)} for volume in plan.volumes),
    ]


def _mounts(plan: Plan) -> list[Part]:
    """Of two at one path the later counts: a runtime may bring its own /scratch, as a podTemplate may."""
    written = claims(plan.config)
    mounts: list[Part] = [
        {"name": "config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        {"name": "token", "mountPath": names.TOKEN_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "scratch", "mountPath": names.SCRATCH_DIR},
        *([{"name": "shared-memory", "mountPath": "/dev/shm"}] if plan.config.resources.shared_memory else []),
        *(
            {"name": volume, "mountPath": names.volume_mount(claim), "readOnly": not written[claim]}
            for claim, volume in claim_volumes(plan).items()
        ),
        *(
            {"name": _runtime_volume(volume), "mountPath": volume.mount_path, "readOnly": volume.read_only}
            for volume in plan.volumes
        ),
    ]
    return list({mount["mountPath"]: mount for mount in mounts}.values())


def claim_volumes(plan: Plan) -> dict[str, str]:
    """Each claim that the run's URIs name, and the name of its volume in the pod: a claim's own may be too long."""
    return {claim: f"claim-{index}" for index, claim in enumerate(sorted(claims(plan.config)))}


def _runtime_volume(volume: RuntimeVolume) -> str:
    """A name of its own, so that no runtime's volume can take the place of one of ours."""
    return f"volume-{volume.name}"


def _source(volume: RuntimeVolume) -> Part:
    sources: dict[str, Part] = {
        "persistentVolumeClaim": {"claimName": volume.claim_name},
        "hostPath": {"path": volume.host_path},
        "configMap": {"name": volume.config_map_name},
        "secret": {"secretName": volume.secret_name},
    }
    return {kind: source for kind, source in sources.items() if None not in source.values()}
