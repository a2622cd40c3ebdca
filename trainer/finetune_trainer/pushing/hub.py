"""hf://owner/name[@branch]: one commit with the model and its card; a repository that is new is a private one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch

from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.pushing.content import Content
from finetune_trainer.pushing.places import SECRET_FIELD, Place, Pushed

log = logging.getLogger(__name__)
REPOSITORY = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@([^@\s]+))?")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")
"""Files of an older model that a library would load instead of the new ones, or beside them."""
HINT = f"name a Secret with HF_TOKEN in {SECRET_FIELD}, with a token that may write there"


def check(place: Place) -> None:
    """Ask whether the token may write; where there is no repository yet, whose it is."""
    from huggingface_hub import HfApi, errors, get_token

    repository, _ = _parts(place)
    if not get_token():
        raise AuthError("NotAllowed", f"{place.field}: there is no token to push to {place.uri} with", HINT)
    with _explained(place):
        try:
            HfApi().auth_check(repository, write=True)
        except errors.RepositoryNotFoundError:
            _check_owner(place, repository.partition("/")[0])


def _check_owner(place: Place, owner: str) -> None:
    """Raise AuthError if the token's holder has no such namespace, or the token only reads."""
    from huggingface_hub import HfApi

    known = HfApi().whoami()
    namespaces = [known["name"], *(one["name"] for one in known.get("orgs", []))]
    if owner.lower() not in (name.lower() for name in namespaces):
        message = f"{place.field}: the token in HF_TOKEN may not make a repository for {owner}"
        raise AuthError("NotAllowed", message, f"it may for {', '.join(namespaces)}")
    if known.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise AuthError("NotAllowed", f"{place.field}: the token in HF_TOKEN only reads", HINT)


def push(place: Place, content: Content) -> Pushed:
    """One commit on the branch; none if nothing is new."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    repository, branch = _parts(place)
    found, api = content.as_model(), HfApi()
    names = {file.name for file in found}
    with _explained(place):
        api.create_repo(repository, private=True, exist_ok=True)
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        there = api.list_repo_files(repository, revision=branch)
        stale = [name for name in there if name not in names and any(fnmatch(name, pattern) for pattern in WEIGHTS)]
        commit = api.create_commit(
            repository,
            [*(CommitOperationDelete(name) for name in stale), *(CommitOperationAdd(f.name, f.path) for f in found)],
            commit_message=f"Model of {content.provenance()['job']}, run {content.provenance()['run']}",
            commit_description="\n".join(f"{name}: {value}" for name, value in content.provenance().items()),
            revision=branch,
        )
    return Pushed(f"hf://{repository}@{commit.oid}", commit.oid)


def _parts(place: Place) -> tuple[str, str | None]:
    """`owner/name` and the branch."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    match = REPOSITORY.fullmatch(place.uri)
    try:
        validate_repo_id(match.group(1) if match else "")
    except HFValidationError:
        match = None
    if match is None:
        message = f"{place.field}: {place.uri} is no repository of the hub"
        raise ConfigError("InvalidUri", message, "write hf://owner/name, or hf://owner/name@branch")
    return match.group(1), match.group(2)


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """The hub's errors in our words; the library wraps those of an upload in others."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:
        known = next((one for one in _causes(error) if isinstance(one, HfHubHTTPError)), None)
        status = known.response.status_code if known is not None and known.response is not None else None
        raise _in_our_words(known or error, status, place) from error


def _in_our_words(error: BaseException, status: int | None, place: Place) -> RunError:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if status in (401, 402, 403, 404):
        return AuthError("NotAllowed", f"{place.field}: the hub does not let us write to {place.uri}: {text}", HINT)
    message = f"{place.field}: the hub did not take {place.uri}: {text}"
    if status is not None and status < 500 and status not in (408, 409, 412, 429):
        return ConfigError("Refused", message, "check owner, name and branch")
    return Unavailable("HubUnavailable", message, "see that the hub can be reached")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
