"""A model arrives on the hub as one commit, in a private repository, and an unchanged one makes none.

The real client against a mirror that speaks the hub's protocol, large files by Git LFS; only its address is put in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_trainer.errors import AuthError, ConfigError, RunError, Unavailable
from finetune_trainer.pushing import hub as pushing_hub
from finetune_trainer.pushing.content import Content
from finetune_trainer.pushing.places import Place, Pushed
from support.finished_run import a_finished_run, as_model, contents
from support.hub_mirror import READER, TOKEN, HubMirror, take_the_hubs_place

FIELD = "spec.output.pushTo"
NAME = "team/reviews"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubMirror]:
    """A mirror in the place of the hub, with a token that may write; a client that does not wait between tries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with HubMirror() as mirror:
        take_the_hubs_place(mirror, tmp_path, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(_http.time, "sleep", lambda _: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield mirror


def push(run: Path, uri: str = f"hf://{NAME}") -> Pushed:
    return pushing_hub.push(Place(uri, FIELD), Content.of(run))


def stored(hub: HubMirror, branch: str = "main") -> dict[str, bytes]:
    """What a branch holds, the hub's own file apart."""
    repository = hub.repositories["models", NAME]
    found = contents(repository.commits[repository.branches[branch]])
    assert found.pop(".gitattributes")
    return found


def test_a_model_arrives_as_one_commit_in_a_private_repository(hub: HubMirror, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    pushed = push(run)
    repository = hub.repositories["models", NAME]
    assert stored(hub) == as_model(run)
    assert pushed == Pushed(f"hf://{NAME}@{repository.branches['main']}", repository.branches["main"])
    assert repository.private
    assert len([request for request in hub.requested if "/commit/" in request]) == 1


@pytest.mark.usefixtures("hub")
def test_what_was_pushed_can_be_pulled_by_its_commit(tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    run = a_finished_run(tmp_path / "run")
    pushed = push(run)
    push(a_finished_run(tmp_path / "newer", seed=2))
    folder = Path(snapshot_download(NAME, revision=pushed.digest))
    assert {name: content for name, content in contents(folder).items() if name != ".gitattributes"} == as_model(run)


def test_a_second_push_makes_no_commit_and_sends_no_weights(hub: HubMirror, tmp_path: Path) -> None:
    run = a_finished_run(tmp_path / "run")
    first = push(run)
    requests, sent = len(hub.requested), list(hub.uploads.sent)
    assert push(run) == first
    assert [request for request in hub.requested[requests:] if "/commit/" in request or request.startswith("PUT")] == []
    assert hub.uploads.sent == sent


def test_weights_of_an_older_model_do_not_stay_beside_the_new_ones(hub: HubMirror, tmp_path: Path) -> None:
    """A library would load them; what a person added stays."""
    shards = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "notes.md": b"mine"}
    push(a_finished_run(tmp_path / "1", **shards))
    second = a_finished_run(tmp_path / "2", seed=2)
    push(second)
    assert stored(hub) == {**as_model(second), "notes.md": b"mine"}


def test_a_branch_of_its_own(hub: HubMirror, tmp_path: Path) -> None:
    first, second = a_finished_run(tmp_path / "1"), a_finished_run(tmp_path / "2", seed=2)
    push(first)
    pushed = push(second, f"hf://{NAME}@candidate")
    assert (stored(hub), stored(hub, "candidate")) == (as_model(first), as_model(second))
    assert pushed.digest == hub.repositories["models", NAME].branches["candidate"]


@pytest.mark.parametrize(
    ("what", "sent"),
    [pytest.param("/large/", 0, id="while weights arrive"), pytest.param("/commit/", 1, id="at the commit")],
)
def test_a_push_that_breaks_goes_on_where_it_was(what: str, sent: int, hub: HubMirror, tmp_path: Path) -> None:
    """Nothing of it is to be seen before; large files that arrived are not sent again."""
    run = a_finished_run(tmp_path / "run")
    hub.hangs_up = lambda path: what in path
    with pytest.raises(Unavailable) as caught:
        push(run)
    assert caught.value.message.startswith(f"{FIELD}: the hub did not take hf://{NAME}: ")
    assert (stored(hub), len(hub.uploads.sent)) == ({}, sent)
    hub.hangs_up = lambda _: False
    push(run)
    assert (stored(hub), len(hub.uploads.sent)) == (as_model(run), 1)


@pytest.mark.parametrize("exists", [True, False], ids=["there", "new"])
def test_a_check_before_training_makes_nothing(exists: bool, hub: HubMirror, tmp_path: Path) -> None:
    if exists:
        push(a_finished_run(tmp_path / "run"))
    before = {name: list(repository.commits) for name, repository in hub.repositories.items()}
    pushing_hub.check(Place(f"hf://{NAME}", FIELD))
    assert {name: list(repository.commits) for name, repository in hub.repositories.items()} == before


@pytest.mark.parametrize(
    ("uri", "token", "error", "reason", "message", "hint"),
    [
        pytest.param(
            "hf://reviews",
            TOKEN,
            ConfigError,
            "InvalidUri",
            "hf://reviews is no repository of the hub",
            "write hf://owner/name, or hf://owner/name@branch",
            id="no owner",
        ),
        pytest.param(
            "hf://team/re--views..",
            TOKEN,
            ConfigError,
            "InvalidUri",
            "hf://team/re--views.. is no repository of the hub",
            "write hf://owner/name",
            id="no name for a repository",
        ),
        pytest.param(
            "hf://team/reviews", "", AuthError, "NotAllowed", "there is no token", "with HF_TOKEN", id="no token"
        ),
        pytest.param(
            "hf://team/reviews",
            "hf_wrong",
            AuthError,
            "NotAllowed",
            "the hub does not let us write to hf://team/reviews: ",
            "name a Secret with HF_TOKEN in spec.output.secretRef",
            id="a token that nobody knows",
        ),
        pytest.param(
            "hf://team/new", READER, AuthError, "NotAllowed", "the token in HF_TOKEN only reads", "", id="reads, new"
        ),
        pytest.param(
            "hf://team/there",
            READER,
            AuthError,
            "NotAllowed",
            "the hub does not let us write to hf://team/there: ",
            "a token that may write",
            id="reads, there",
        ),
        pytest.param(
            "hf://others/reviews",
            TOKEN,
            AuthError,
            "NotAllowed",
            "the token in HF_TOKEN may not make a repository for others",
            "it may for owner, team",
            id="another's namespace",
        ),
    ],
)
def test_what_the_hub_may_say_before_training(
    uri: str,
    token: str,
    error: type[RunError],
    reason: str,
    message: str,
    hint: str,
    hub: HubMirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.publish("models", "team/there", a_finished_run(tmp_path / "there", megabytes=0.1))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(RunError) as caught:
        pushing_hub.check(Place(uri, FIELD))
    assert (type(caught.value), caught.value.reason) == (error, reason), caught.value.message
    assert caught.value.message.startswith(f"{FIELD}: {message}")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("token", [READER, "hf_wrong"])
@pytest.mark.parametrize("name", ["team/there", "team/new"])
def test_a_token_that_may_no_longer_write(
    token: str, name: str, hub: HubMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is final, and the model is kept: only a person can change it."""
    run = a_finished_run(tmp_path / "run", megabytes=0.1)
    hub.publish("models", "team/there", run)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(AuthError) as caught:
        push(run, f"hf://{name}")
    assert caught.value.message.startswith(f"{FIELD}: the hub does not let us write to hf://{name}: ")


@pytest.mark.parametrize(
    "do",
    [pushing_hub.check, lambda place: pushing_hub.push(place, Content.of(Path("run")))],
    ids=["check", "push"],
)
def test_a_hub_that_does_not_answer(
    do: Callable[[Place], object], hub: HubMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_finished_run(tmp_path / "run", megabytes=0.1)
    monkeypatch.chdir(tmp_path)
    hub.hangs_up = lambda _: True
    with pytest.raises(Unavailable) as caught:
        do(Place(f"hf://{NAME}", FIELD))
    assert caught.value.message.startswith(f"{FIELD}: the hub did not take hf://{NAME}: ")
