"""The Hugging Face hub: downloads to the local cache, with errors that say whether a retry can help.

The supervisor downloads; the ranks find everything in the cache, offline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune_api.dataset import Source
from finetune_trainer.data import folders
from finetune_trainer.data.rows import Table
from finetune_trainer.data.uri import hub_repository
from finetune_trainer.errors import ConfigError, RunError, Unavailable

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
"""Configuration, tokenizer, chat template and code; enough to tell whether a model fits the task."""


def download_model(uri: str, revision: str | None, field_path: str, weights: bool) -> Path:
    """Folder of a hub model in the cache; its name is the commit. Without `weights` only the small files."""
    repository = hub_repository(uri, field_path)
    folder = _snapshot(repository, "model", revision, SMALL_FILES, field_path)
    if not weights:
        return folder
    folder = _snapshot(repository, "model", folder.name, (*SMALL_FILES, "*.safetensors"), field_path)
    if not list(folder.glob("*.safetensors")):
        folder = _snapshot(repository, "model", folder.name, (*SMALL_FILES, "pytorch_model*.bin"), field_path)
    return folder


def load_table(source: Source, split: str, field_path: str) -> Table:
    """The split of a hub data set that `source` names."""
    repository = hub_repository(source.uri, field_path)
    folder = _snapshot(repository, "dataset", source.revision, None, field_path)
    table = folders.read_repository(folder, split, source.uri)
    digest = hashlib.sha256(f"{repository}@{folder.name}/{source.split}".encode()).hexdigest()
    return replace(table, digest=digest, revision=folder.name)


def _snapshot(
    repository: str, kind: str, revision: str | None, patterns: Sequence[str] | None, field_path: str
) -> Path:
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    allowed = None if patterns is None else list(patterns)
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=allowed))
    except errors.RevisionNotFoundError as error:
        message = f"{field_path}: {repository} has no revision {revision}"
        raise ConfigError("NotFound", message, "name a commit, a tag or a branch that the hub shows") from error
    except errors.HFValidationError as error:
        message = f"{field_path}: the hub has no {kind} {repository}"
        raise ConfigError("NotFound", message, "write hf://owner/name") from error
    except OSError as error:
        raise _in_our_words(error, repository, kind, field_path) from error


def _in_our_words(error: OSError, repository: str, kind: str, field_path: str) -> RunError:
    from huggingface_hub import errors

    refused = f"{field_path}: the hub does not give out {repository}"
    if isinstance(error, errors.GatedRepoError):
        hint = "accept its terms, then name a Secret with HF_TOKEN in secretRef"
        return ConfigError("NotAllowed", refused, hint)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "check owner/name; a private one needs a Secret with HF_TOKEN in secretRef"
        return ConfigError("NotFound", f"{field_path}: the hub has no {kind} {repository}", hint)
    if _status_of(error) in (401, 403):
        return ConfigError("NotAllowed", refused, "check that the token in HF_TOKEN is valid and may read it")
    message = f"{field_path}: the hub did not give {repository}: {_first_line(error)}"
    return Unavailable("HubUnavailable", message, "without a network use pvc://, pkg:// or file://")


def _status_of(error: BaseException | None) -> int | None:
    """What the hub answered: the library hides some answers behind an error that says that its cache has no file."""
    from huggingface_hub import errors

    while error is not None:
        if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
            return error.response.status_code
        error = error.__cause__
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
