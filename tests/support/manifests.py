"""Builder of FineTuneJob manifests as plain dictionaries, the way a file holds them."""

from __future__ import annotations

from typing import Any


def a_manifest(name: str = "reviews", **changes: Any) -> dict[str, Any]:
    """The smallest valid manifest, with fields of its spec replaced; None removes one."""
    spec: dict[str, Any] = {
        "task": "text-classification",
        "model": {"uri": "pkg://encoder/model"},
        "dataset": {"train": [{"uri": "pkg://data/rows.csv"}]},
    }
    spec = {field: value for field, value in (spec | changes).items() if value is not None}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": spec}
