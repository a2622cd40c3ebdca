"""What kopf does for us: process, login, watches and probes. No handler writes to an object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import kopf

from finetune_api.names import GROUP, VERSION
from finetune_operator.shell.cluster import BATCH_JOB, JOB, MANAGED, POD, RUNTIME, WORKLOAD, Kind, Manifest
from finetune_operator.shell.settings import Settings

OnEvent = Callable[[Kind, str | None, Manifest], Awaitable[None]]
"""Told of every event of a watch: kind, type (None for what was there before) and object."""
Trouble = Callable[[], str | None]
"""Why the operator should be started again; None while it is well."""

WATCHES = {
    JOB: (GROUP, VERSION, JOB.plural),
    RUNTIME: (GROUP, VERSION, RUNTIME.plural),
    BATCH_JOB: ("batch", "v1", "jobs"),
    POD: ("", "v1", "pods"),
    WORKLOAD: ("kueue.x-k8s.io", "v1beta1", WORKLOAD.plural),
}


def registry(settings: Settings, on_event: OnEvent, trouble: Trouble, kinds: Collection[Kind]) -> kopf.OperatorRegistry:
    """Handlers that only pass on what they are told of `kinds`."""
    result = kopf.OperatorRegistry()
    login = kopf.login_with_kubeconfig if settings.kubeconfig else kopf.login_with_service_account
    kopf.on.login(registry=result)(login)

    kopf.on.probe(registry=result, id="operator")(probe(trouble))
    for kind in kinds:
        group, version, plural = WATCHES[kind]
        kopf.on.event(group, version, plural, registry=result, id=f"watch-{plural}")(_passing(kind, on_event))
    return result


def probe(trouble: Trouble) -> Callable[..., Awaitable[str]]:
    """Answers the liveness probe. Any other exception than PermanentError would make kopf keep the probe waiting."""

    async def healthy(**_: Any) -> str:
        reason = trouble()
        if reason is not None:
            raise kopf.PermanentError(reason)
        return "ok"

    return healthy


def _passing(kind: Kind, on_event: OnEvent) -> Callable[..., Awaitable[None]]:
    async def passed(event: Any, **_: Any) -> None:
        await on_event(kind, event["type"], dict(event["object"]))

    return passed


def kopf_settings() -> kopf.OperatorSettings:
    """Watches that notice a dead connection, and nothing that writes."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.execution.max_workers = 1
    settings.watching.label_selectors["batch", "v1", "jobs"] = MANAGED
    settings.watching.label_selectors["", "v1", "pods"] = MANAGED
    settings.watching.chunk_size = 500
    settings.watching.inactivity_timeout = 70
    settings.watching.reconnect_backoff = 1
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = (0.5, 1, 2, 4, 8, 15, 30, 60, 60, 60)
    settings.queueing.exit_timeout = 1
    return settings
