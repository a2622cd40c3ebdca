"""Every call that the operator's source makes to the API server, read from the source itself.

A call is `cluster.<method>(<KIND>, …)` with one of the constants of shell/cluster.py, or with a variable `kind` that
runs over the children, or over what is watched. A kind written in another way fails here, not in a user's cluster.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from finetune_operator.shell import cluster
from finetune_operator.shell.handlers import WATCHES

SHELL = Path(cluster.__file__).parent
VERBS = {"list": "list", "get": "get", "create": "create", "replace": "update", "delete": "delete"}
Call = tuple[str, str, str]


def calls_of_the_operator() -> set[Call]:
    """(verb, group, resource) of every call, the watches included."""
    watched = {(verb, *_names(kind)) for kind in WATCHES for verb in ("list", "watch")}
    sources = (path for path in SHELL.glob("*.py") if path.name != "cluster.py")
    return watched | {call for path in sources for call in _calls(ast.parse(path.read_text(encoding="utf-8")))}


def _calls(tree: ast.Module) -> Iterator[Call]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_cluster(node.func.value)):
            continue
        method = node.func.attr
        if method == "patch_status":
            group, resource = _names(_kinds(node.args[0], method)[0])
            yield "patch", group, f"{resource}/status"
        elif method in VERBS:
            for kind in _kinds(node.args[0], method):
                yield VERBS[method], *_names(kind)


def _is_cluster(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "cluster") or (
        isinstance(node, ast.Attribute) and node.attr == "cluster"
    )


def _kinds(argument: ast.expr, method: str) -> list[cluster.Kind]:
    assert isinstance(argument, ast.Name), f"{ast.unparse(argument)}: name the kind by a constant of shell/cluster.py"
    if argument.id == "kind":
        return list(WATCHES) if method == "list" else list(cluster.CHILD_KINDS.values())
    return [getattr(cluster, argument.id)]


def _names(kind: cluster.Kind) -> tuple[str, str]:
    group, _, _ = kind.api_version.rpartition("/")
    return group, kind.plural
