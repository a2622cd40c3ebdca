"""`--set spec.training.learningRate=1e-4`: single fields of a manifest changed from the command line."""

from __future__ import annotations

import copy
from typing import Any

from finetune_api.manifest import InvalidManifest, Problem, read_yaml


def apply_overrides(manifest: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """`manifest` with each `path=value` applied; values are YAML, `[n]` or `.n` indexes a list.

    Raises InvalidManifest for an assignment that names no place.
    """
    changed = copy.deepcopy(manifest)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise _invalid(assignment, "has no value", "write --set path.to.field=value")
        _assign(changed, path.replace("[", ".").replace("]", "").split("."), read_yaml(text), assignment)
    return changed


def _assign(node: Any, keys: list[str], value: Any, assignment: str) -> None:
    *parents, last = keys
    for key in parents:
        node = _step(node, key, assignment)
    if isinstance(node, list):
        node[_index(node, last, assignment)] = value
    else:
        node[last] = value


def _step(node: Any, key: str, assignment: str) -> Any:
    """The object or list below `node`, made where a path goes through an absent field."""
    if isinstance(node, list):
        child = node[_index(node, key, assignment)]
    else:
        child = node.get(key)
        if child is None:
            child = node[key] = {}
    if not isinstance(child, dict | list):
        raise _invalid(assignment, f"{key} holds {child!r}, not an object", "shorten the path")
    return child


def _index(items: list[Any], key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise _invalid(assignment, f"{key!r} is no index of a list of {len(items)}", "count from 0")
    return int(key)


def _invalid(assignment: str, reason: str, hint: str) -> InvalidManifest:
    return InvalidManifest([Problem(f"--set {assignment}", reason, hint)])
