"""What a run was made from, in the words of a status."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from finetune_api.progress import Provenance

DISTRIBUTION = "finetune-operator"


def provenance(known: Mapping[str, Any]) -> Provenance:
    """Of what is known so far: `data` and `model` as in run.json, and the `versions` of a run that is over.

    A model that came with no commit is known by the hash of its files.
    """
    data, model = known.get("data") or {}, known.get("model") or {}
    version = (known.get("versions") or {}).get(DISTRIBUTION) or metadata.version(DISTRIBUTION)
    return Provenance(
        trainer_version=version,
        model_revision=model.get("revision") or _digest(model),
        data_digest=_digest(data),
    )


def _digest(facts: Mapping[str, Any]) -> str | None:
    return f"sha256:{facts['sha256']}" if "sha256" in facts else None
