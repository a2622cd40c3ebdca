"""What the surroundings say, read once: environment variables and where the RunConfig lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api import names

ENV_METRICS_PORT = "FINETUNE_METRICS_PORT"


@dataclass(frozen=True)
class ProgressServer:
    """Where progress reports go; token and CA are files, read anew because they are rotated."""

    url: str
    token_file: Path
    ca_file: Path | None


@dataclass(frozen=True)
class Settings:
    """The surroundings of one pod, or of one `finetune run`."""

    run_config: Path
    node_rank: int = 0
    master_address: str = "127.0.0.1"
    master_port: int | None = None
    pod_name: str | None = None
    node_name: str | None = None
    termination_log: Path | None = None
    metrics_port: int | None = None
    progress_server: ProgressServer | None = None


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line (without the program's name) and the environment."""
    default = f"{names.CONFIG_DIR}/{names.RUN_CONFIG_FILE}"
    port = environment.get("MASTER_PORT")
    return Settings(
        run_config=Path(arguments[0] if arguments else environment.get(names.ENV_RUN_CONFIG, default)),
        node_rank=int(environment.get(names.ENV_NODE_RANK, "0")),
        master_address=environment.get("MASTER_ADDR", "127.0.0.1"),
        master_port=int(port) if port else None,
        pod_name=environment.get(names.ENV_POD_NAME),
        node_name=environment.get(names.ENV_NODE_NAME),
        termination_log=_termination_log(environment),
        metrics_port=_metrics_port(environment),
        progress_server=_progress_server(environment),
    )


def _termination_log(environment: Mapping[str, str]) -> Path | None:
    if path := environment.get(names.ENV_TERMINATION_LOG):
        return Path(path)
    default = Path(names.TERMINATION_LOG)
    return default if default.exists() else None


def _metrics_port(environment: Mapping[str, str]) -> int | None:
    """On in a pod; with `finetune run` only where a port is named."""
    if port := environment.get(ENV_METRICS_PORT):
        return int(port)
    return names.METRICS_PORT if names.ENV_POD_NAME in environment else None


def _progress_server(environment: Mapping[str, str]) -> ProgressServer | None:
    url, token = environment.get(names.ENV_SERVER_URL), environment.get(names.ENV_SERVER_TOKEN)
    if not url or not token:
        return None
    ca = environment.get(names.ENV_SERVER_CA)
    return ProgressServer(url=url, token_file=Path(token), ca_file=Path(ca) if ca else None)
