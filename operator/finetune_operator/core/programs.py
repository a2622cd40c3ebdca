"""Another program than ours in the training container: how it is started, and what it is told of its peers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from finetune_api import names
from finetune_api.placement import Framework
from finetune_operator.core.plan import Plan
from finetune_operator.core.scheduling import rendezvous_host

Part = dict[str, Any]

LAUNCHER_FILE: Final = "launch.py"
LAUNCHER: Final = ("python3", "-I", f"{names.CONFIG_DIR}/{LAUNCHER_FILE}", "--")
"""Starts a program; `-I` keeps the program's PYTHONPATH from taking the place of the standard library."""

ENV_NODES: Final = "FINETUNE_NODES"
ENV_RANK: Final = "FINETUNE_NODE_RANK"
ENV_HOSTS: Final = "FINETUNE_HOSTS"
ENV_OUTPUT: Final = "FINETUNE_OUTPUT_DIR"
ENV_CHECKPOINTS: Final = "FINETUNE_CHECKPOINT_DIR"
ENV_SOURCES: Final = "FINETUNE_SOURCES"
ENV_GRACE: Final = "FINETUNE_GRACE_SECONDS"
MOST_HOSTS: Final = 1000
"""More names would not fit in one variable, which Linux bounds to 128 KiB."""
SHUTDOWN_MARGIN_SECONDS: Final = 5
"""How much longer torchrun waits for its workers, so that launch.py has their stacks before torchrun kills them."""
RANK_FIELD: Final = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def framework(plan: Plan) -> Framework | None:
    """The framework whose variables the program gets; None where it is our trainer."""
    return (plan.trainer.framework or Framework.TORCH) if plan.trainer.own_program else None


def is_launched(plan: Plan) -> bool:
    """Whether launch.py starts the program: it is named, and a Python to start it with is in its image."""
    return bool(plan.trainer.command) and framework(plan) is not Framework.CUSTOM


def command(plan: Plan) -> Part:
    """`command` and `args` of the container; what is absent is the image's own."""
    launcher = LAUNCHER if is_launched(plan) else ()
    given = {"command": [*launcher, *plan.trainer.command], "args": list(plan.trainer.args)}
    return {field: words for field, words in given.items() if words}


def files(plan: Plan, launcher: str) -> dict[str, str]:
    """What the attempt's ConfigMap holds for the program beside its configuration; `launcher` is launch.py's text."""
    return {LAUNCHER_FILE: launcher} if is_launched(plan) else {}


def environment(plan: Plan) -> list[Part]:
    """What the program is told beside what our trainer is, too, without what the manifest sets itself.

    The node's rank comes first: Kubernetes expands $(FINETUNE_NODE_RANK) in the variables after it.
    """
    chosen = framework(plan)
    if chosen is None:
        return []
    told = {**_common(plan), **VARIABLES[chosen](plan)}
    own = {variable.name for variable in plan.env}
    return [
        {"name": name, "valueFrom": value} if isinstance(value, dict) else {"name": name, "value": value}
        for name, value in told.items()
        if name not in own
    ]


Variables = dict[str, str | Part]


def _node_rank() -> Part:
    """The value of a variable that has the pod's rank."""
    return {"fieldRef": {"fieldPath": RANK_FIELD}}


def _common(plan: Plan) -> Variables:
    config = plan.config
    told: Variables = {ENV_RANK: _node_rank(), ENV_NODES: str(plan.nodes)}
    if plan.nodes <= MOST_HOSTS:
        told[ENV_HOSTS] = ",".join(_hosts(plan))
    told |= {ENV_OUTPUT: config.folder, ENV_CHECKPOINTS: config.checkpoint_folder}
    told[ENV_GRACE] = str(config.checkpoint.grace_seconds)
    if plan.fetches:
        told[ENV_SOURCES] = f"{config.cache_folder}/runs/{config.job.uid}-{config.job.run}.json"
    return told


def _hosts(plan: Plan) -> list[str]:
    """Where each pod is reached, by rank."""
    if plan.nodes == 1:
        return [rendezvous_host(plan)]
    return [f"{plan.name}-{rank}.{plan.service}" for rank in range(plan.nodes)]


def _torch(plan: Plan) -> Variables:
    """torchrun's PET_*; a program that is not started by torchrun reads RANK and so on, where a pod is one process."""
    processes = _processes(plan)
    told: Variables = {
        "PET_NNODES": str(plan.nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_NODE_RANK": _node_rank(),
        "PET_MASTER_ADDR": rendezvous_host(plan),
        "PET_MASTER_PORT": str(names.MASTER_PORT),
        "PET_SHUTDOWN_TIMEOUT": str(plan.config.checkpoint.grace_seconds + SHUTDOWN_MARGIN_SECONDS),
    }
    if processes == 1:
        told |= {"RANK": _node_rank(), "WORLD_SIZE": str(plan.nodes), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return told


def _processes(plan: Plan) -> int:
    """Processes of a pod."""
    wanted = plan.config.resources
    return max(1, wanted.gpus_per_node) if wanted.processes_per_node == "auto" else wanted.processes_per_node


def _tensorflow(plan: Plan) -> Variables:
    """Every pod is a worker, the first is the chief. The index stands in place of a number, so it has no quotes."""
    workers = [f"{host}:{names.MASTER_PORT}" for host in _hosts(plan)]
    cluster = json.dumps({"worker": workers}, separators=(",", ":"))
    return {"TF_CONFIG": f'{{"cluster":{cluster},"task":{{"type":"worker","index":$({ENV_RANK})}}}}'}


def _jax(plan: Plan) -> Variables:
    """JAX itself reads the first; the program hands the others to jax.distributed.initialize."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"{rendezvous_host(plan)}:{names.MASTER_PORT}",
        "JAX_NUM_PROCESSES": str(plan.nodes),
        "JAX_PROCESS_ID": _node_rank(),
    }


def _custom(plan: Plan) -> Variables:  # noqa: ARG001
    return {}


VARIABLES: Final[Mapping[Framework, Callable[[Plan], Variables]]] = {
    Framework.TORCH: _torch,
    Framework.TENSORFLOW: _tensorflow,
    Framework.JAX: _jax,
    Framework.CUSTOM: _custom,
}
