"""The Hugging Face hub: downloads to the local cache, with errors that say whether a retry can help.

The supervisor downloads; the ranks find everything in the cache, offline. The cache is the library's own, in the folder
that jobs share where the run has one: it keeps each file once by its content, and locks it while it comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.dataset import Source
from finetune_trainer import files
from finetune_trainer.data import folders
from finetune_trainer.data.rows import Table
from finetune_trainer.data.uri import hub_repository
from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.fetching.downloads import Downloads, Pin
from finetune_trainer.fetching.progress import bytes_below, told
from finetune_trainer.fetching.words import causes, is_local, not_stored, secret_of

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
"""Configuration, tokenizer, chat template and code; enough to tell whether a model fits the task."""
WEIGHTS = ("*.safetensors",)
OLD_WEIGHTS = ("pytorch_model*.bin",)
EVERYTHING = ("*",)
MODEL, DATASET = "model", "dataset"


@dataclass(frozen=True)
class Repository:
    """What a field names on the hub. `cache` is the library's folder, its usual one if None."""

    name: str
    kind: str
    revision: str | None
    field_path: str
    cache: Path | None = None
    offline: bool = False


Get = Callable[[Repository], Path]
"""Downloads what is needed of a repository, and returns the folder with it."""


def download_model(
    uri: str,
    revision: str | None,
    field_path: str,
    check: Callable[[Path], None],
    downloads: Downloads | None = None,
    other_weights: Sequence[str] = OLD_WEIGHTS,
) -> Path:
    """Folder of a hub model in the cache; its name is the commit.

    `check` sees it with the small files only, before gigabytes come. Where there are no safetensors, `other_weights`
    are taken.
    """

    def get(repository: Repository) -> Path:
        small = _snapshot(repository, SMALL_FILES)
        check(small)
        whole = replace(repository, revision=small.name)
        folder = _snapshot(whole, (*SMALL_FILES, *WEIGHTS))
        return folder if list(folder.glob(WEIGHTS[0])) else _snapshot(whole, (*SMALL_FILES, *other_weights))

    repository = Repository(hub_repository(uri, field_path), MODEL, revision, field_path)
    return get(repository) if downloads is None else _kept(repository, downloads, get)


def download_small_files(uri: str, revision: str | None, field_path: str) -> Path:
    """Folder of a hub model's configuration and tokenizer in the cache, without its weights."""
    return _snapshot(Repository(hub_repository(uri, field_path), MODEL, revision, field_path), SMALL_FILES)


def download_rows(source: Source, field_path: str, downloads: Downloads | None = None) -> Path:
    """Folder of a hub data set in the cache; its name is the commit."""
    repository = Repository(hub_repository(source.uri, field_path), DATASET, source.revision, field_path)
    return _snapshot(repository) if downloads is None else _kept(repository, downloads, _snapshot)


def load_table(source: Source, split: str, field_path: str, downloads: Downloads | None = None) -> Table:
    """The split of a hub data set that `source` names."""
    folder = download_rows(source, field_path, downloads)
    table = folders.read_repository(folder, split, source.uri)
    name = hub_repository(source.uri, field_path)
    digest = hashlib.sha256(f"{name}@{folder.name}/{source.split}".encode()).hexdigest()
    return replace(table, digest=digest, revision=folder.name)


def key_of(repository: Repository) -> str:
    """A repository in the file of pins; a data set and a model may have the same name."""
    kind = "datasets/" if repository.kind == DATASET else ""
    revision = f"@{repository.revision}" if repository.revision else ""
    return f"hf://{kind}{repository.name}{revision}"


def _kept(repository: Repository, downloads: Downloads, get: Get) -> Path:
    """What this run uses of the repository in the shared folder: always the commit that it began with."""
    here = replace(repository, cache=downloads.hub)

    def usable(pin: Pin) -> bool:
        try:
            return get(replace(here, revision=pin.revision, offline=True)) == pin.path
        except Unavailable:
            return False

    def find(pin: Pin | None) -> Pin:
        for left in _blobs(here).glob("*.incomplete"):  # by a process that was killed: the library begins anew
            left.unlink()
        commit = pin.revision if pin is not None else _commit(here)
        before = bytes_below(_blobs(here))
        with told(key_of(repository), lambda: bytes_below(_blobs(here)) - before):
            folder = get(replace(here, revision=commit))
            if _without_torn(replace(here, revision=commit), folder):
                folder = get(replace(here, revision=commit))
        for path in files.files_below(folder):
            files.sync(path)
        return Pin(folder, commit, f"git:{commit}", sum(path.stat().st_size for path in files.files_below(folder)))

    place = key_of(replace(repository, revision=None))
    return downloads.get(key_of(repository), repository.field_path, find, usable, place).path


def _blobs(repository: Repository) -> Path:
    assert repository.cache is not None
    return Path(repository.cache, f"{repository.kind}s--{repository.name.replace('/', '--')}", "blobs")


def _without_torn(repository: Repository, folder: Path) -> bool:
    """Remove files that are not as long as the hub says, as a node's crash may leave them; tells if there were any."""
    from huggingface_hub import get_cached_repo_tree

    tree = get_cached_repo_tree(
        repository.name, repo_type=repository.kind, revision=repository.revision, cache_dir=repository.cache
    )
    torn = [folder / file.path for file in tree if _size(folder / file.path) not in (None, file.size)]
    for path in torn:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    return bool(torn)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _commit(repository: Repository) -> str:
    """The commit that the revision means now; where the hub cannot be reached, the one that the cache last saw."""
    from huggingface_hub import HfApi

    def ask() -> str:
        resolved = HfApi().resolve_revision(
            repository.name, repo_type=repository.kind, revision=repository.revision, cache_dir=repository.cache
        )
        return str(resolved.resolved)

    return explained(repository, ask)


def _snapshot(repository: Repository, patterns: Sequence[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()

    def ask() -> str:
        return snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=None if patterns is None else list(patterns),
            cache_dir=repository.cache,
            local_files_only=repository.offline,
        )

    return Path(explained(repository, ask))


def explained(repository: Repository, ask: Callable[[], str]) -> str:
    """What `ask` returns; the library's errors in our words."""
    from huggingface_hub import errors

    try:
        return ask()
    except errors.RevisionNotFoundError as error:
        message = f"{repository.field_path}: {repository.name} has no revision {repository.revision}"
        raise ConfigError("NotFound", message, "name a commit, a tag or a branch that the hub shows") from error
    except errors.HFValidationError as error:
        message = f"{repository.field_path}: the hub has no {repository.kind} {repository.name}"
        raise ConfigError("NotFound", message, "write hf://owner/name") from error
    except (OSError, errors.RevisionResolutionError, RuntimeError) as error:  # RuntimeError: the hub's Rust downloader
        raise _in_our_words(error, repository) from error


def _in_our_words(error: Exception, asked: Repository) -> RunError:
    from huggingface_hub import errors

    if is_local(error):
        return not_stored(error, f"hf://{asked.name}", asked.cache or Path("the hub's cache"), asked.field_path)
    refused = f"{asked.field_path}: the hub does not give out {asked.name}"
    secret = secret_of(asked.field_path)
    if isinstance(error, errors.GatedRepoError):
        return AuthError("NotAllowed", refused, f"accept its terms, then name a Secret with HF_TOKEN in {secret}")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = f"check owner/name; a private one needs a Secret with HF_TOKEN in {secret}"
        return ConfigError("NotFound", f"{asked.field_path}: the hub has no {asked.kind} {asked.name}", hint)
    if _status_of(error) in (401, 403):
        hint = f"check that the HF_TOKEN of the Secret in {secret} is valid and may read it"
        return AuthError("NotAllowed", refused, hint)
    message = f"{asked.field_path}: the hub did not give {asked.name}: {_first_line(error)}"
    return Unavailable("HubUnavailable", message, "without a network use pvc://, pkg:// or file://")


def _status_of(error: BaseException) -> int | None:
    """What the hub answered: the library hides some answers behind an error that says that its cache has no file."""
    from huggingface_hub import errors

    answers = (cause for cause in causes(error) if isinstance(cause, errors.HfHubHTTPError))
    return next((answer.response.status_code for answer in answers if answer.response is not None), None)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
