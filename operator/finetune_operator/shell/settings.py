"""What the environment says, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.names import MANAGER, PROGRESS_PORT


@dataclass(frozen=True)
class Settings:
    namespace: str
    """Where the operator runs: its runtimes, its Lease, its certificate."""
    watch_namespaces: tuple[str, ...]
    """Namespaces to serve; none for all of the cluster."""
    service: str
    progress_url: str
    """Base URL under which pods reach the progress server."""
    identity: str
    """Name of this process in the Lease: its pod's."""
    kubeconfig: str | None = None
    leader_election: bool = True
    log_level: str = "INFO"
    workers: int = 4
    metrics_port: int = 8080
    health_port: int = 8081
    progress_port: int = PROGRESS_PORT

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings in environment variables. Raises ValueError that names a variable with a bad value."""
        namespace = env.get("FINETUNE_NAMESPACE", "finetune")
        service = env.get("FINETUNE_SERVICE_NAME", MANAGER)
        progress_port = _number(env, "FINETUNE_PROGRESS_PORT", PROGRESS_PORT)
        return cls(
            namespace=namespace,
            watch_namespaces=_names(env.get("FINETUNE_WATCH_NAMESPACES", "")),
            service=service,
            progress_url=env.get("FINETUNE_PROGRESS_URL") or f"https://{service}.{namespace}.svc:{progress_port}",
            identity=env.get("FINETUNE_IDENTITY") or env.get("HOSTNAME", MANAGER),
            kubeconfig=env.get("KUBECONFIG"),
            leader_election=_truth(env, "LEADER_ELECTION", True),
            log_level=env.get("LOG_LEVEL", "INFO").upper(),
            metrics_port=_number(env, "FINETUNE_METRICS_PORT", 8080),
            health_port=_number(env, "FINETUNE_HEALTH_PORT", 8081),
            progress_port=progress_port,
        )

    @property
    def served_namespaces(self) -> tuple[str, ...]:
        """Namespaces to watch, the operator's own with its runtimes among them; none for all of the cluster."""
        return tuple(dict.fromkeys((*self.watch_namespaces, self.namespace))) if self.watch_namespaces else ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdigit() or int(text) > 65535:
        raise ValueError(f"{name}: {text!r} is no port; use a number up to 65535")
    return int(text)


def _truth(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{name}: {text!r} is neither true nor false")
    return text == "true"
