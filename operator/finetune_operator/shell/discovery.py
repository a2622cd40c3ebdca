"""What else the cluster serves, asked at the start; when that changes, the process starts again."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.shell import errors
from finetune_operator.shell.cluster import POD_GROUP, WORKLOAD, Cluster, Kind

OPTIONAL = (WORKLOAD, POD_GROUP)
"""Kinds of other projects: Kueue's, and the coscheduling plugin's."""


class Changed(Exception):
    """Something was installed or removed that we watch: a fresh start is cheap and clean."""


async def discover(cluster: Cluster, kinds: Iterable[Kind] = OPTIONAL) -> frozenset[Kind]:
    """Those of `kinds` that the API server serves."""
    return frozenset([kind for kind in kinds if await _is_served(cluster, kind)])


async def _is_served(cluster: Cluster, kind: Kind) -> bool:
    try:
        answer = await cluster.read(f"/apis/{kind.api_version}")
    except (errors.NotFound, errors.Refused):
        return False
    return any(resource["name"] == kind.plural for resource in answer.get("resources", []))
