"""The quickstart's manifest, changed for one test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.manifest import read_yaml

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart" / "job.yaml"


def quickstart(name: str, **changes: dict[str, Any] | None) -> dict[str, Any]:
    """The quickstart as `name`, with fields of whole sections replaced; None removes a section."""
    manifest: dict[str, Any] = read_yaml(QUICKSTART.read_text(encoding="utf-8"))
    manifest["metadata"]["name"] = name
    for section, fields in changes.items():
        if fields is None:
            manifest["spec"].pop(section, None)
        else:
            manifest["spec"][section] = manifest["spec"].get(section, {}) | fields
    return manifest
