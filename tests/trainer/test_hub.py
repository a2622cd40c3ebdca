"""Models and data sets come from the hub at the revision that is named, or a message says what to change.

Against a mirror that speaks the hub's protocol over real connections; only its address is put in by the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from finetune_api.dataset import Source
from finetune_api.progress import Outcome
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.hub import EVERYTHING, OLD_WEIGHTS, Repository, download_model, explained
from finetune_trainer.data.sources import Loaded, load_source
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import AuthError, ConfigError, RunError, StorageFull, Unavailable
from support.hub_mirror import TOKEN, HubMirror, take_the_hubs_place
from support.models import sentences, write_rows
from support.runs import ARun

FIELD = "spec.dataset.train[0]"
TEXTS = Roles({"text": columns.text, "label": columns.label}, (("text", "label"),))
IMAGES = Roles({"image": columns.image, "label": columns.label}, (("image", "label"),))
MODEL = {"config.json": '{"model_type": "bert"}', "tokenizer.json": "{}", "model.safetensors": "weights"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubMirror]:
    """A mirror in the place of the hub, with an empty cache and nobody logged in."""
    import datasets

    with HubMirror() as mirror:
        take_the_hubs_place(mirror, tmp_path, monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".datasets")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield mirror


def a_folder(path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def load(roles: Roles = TEXTS, **fields: Any) -> Loaded:
    return load_source(Source(uri="hf://owner/rows", **fields), roles, {}, Places(), FIELD)


def values(loaded: Loaded) -> list[dict[str, Any]]:
    return [dict(row.values) for row in loaded.rows]


def test_a_data_set_of_csv_files_with_its_splits_in_the_readme(hub: HubMirror, tmp_path: Path) -> None:
    """The branch decides which rows come, the commit is what identifies them, and a second time nothing is loaded."""
    readme = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: a.csv}\n"
    files = {"README.md": readme + "  - {split: test, path: b.csv}\n---\n", "b.csv": "text,label\nc,d\n"}
    main = hub.publish("datasets", "owner/rows", a_folder(tmp_path / "1", files | {"a.csv": "text,label\na,b\n"}))
    tuned = a_folder(tmp_path / "2", files | {"a.csv": "text,label\ne,f\n"})
    other = hub.publish("datasets", "owner/rows", tuned, branch="refs/pr/1")

    first = load()
    assert (values(first), first.revision) == ([{"text": "a", "label": "b"}], main)
    assert values(load(split="test")) == [{"text": "c", "label": "d"}]
    of_branch = load(revision="refs/pr/1")
    assert (values(of_branch), of_branch.revision) == ([{"text": "e", "label": "f"}], other)
    assert load(revision=other).digest == of_branch.digest != first.digest
    downloads = [request for request in hub.requested if "/resolve/" in request]
    load()
    assert [request for request in hub.requested if "/resolve/" in request] == downloads


def test_a_data_set_of_parquet_files_in_the_hubs_layout(hub: HubMirror, tmp_path: Path) -> None:
    """Splits by the files' names, images as bytes, labels by name; the files come from the large-file storage."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    (tmp_path / "1" / "data").mkdir(parents=True)
    for split, label in (("train", 1), ("test", 0)):
        rows = [{"image": {"bytes": split.encode(), "path": f"{split}.png"}, "label": label}]
        table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        parquet.write_table(table, tmp_path / "1" / "data" / f"{split}-00000-of-00001.parquet")
    hub.publish("datasets", "owner/rows", tmp_path / "1")
    for split, label in (("train", "dog"), ("test", "cat")):
        (row,) = load(IMAGES, split=split).rows
        image = row.values["image"]
        assert (image.name, image.read(), row.values["label"]) == (f"{split}.png", split.encode(), label)


def test_a_model_comes_without_weights_first(hub: HubMirror, tmp_path: Path) -> None:
    """A model that does not fit the task is known before gigabytes are loaded; unneeded files never come."""
    commit = hub.publish("models", "owner/bert", a_folder(tmp_path / "1", {**MODEL, "pytorch_model.bin": "old"}))
    seen: list[Path] = []

    def check(folder: Path) -> None:
        seen.extend(sorted(folder.iterdir()))

    whole = download_model("hf://owner/bert", None, "spec.model.uri", check)
    assert [path.name for path in seen] == ["config.json", "tokenizer.json"]
    assert {path.name: path.read_text() for path in whole.iterdir()} == MODEL
    assert whole.name == commit


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(OLD_WEIGHTS, ["config.json", "pytorch_model.bin"], id="our trainer"),
        pytest.param(EVERYTHING, ["config.json", "pytorch_model.bin", "tf_model.h5"], id="another program"),
    ],
)
def test_other_weights_come_where_there_are_no_safetensors(
    other: Sequence[str], expected: list[str], hub: HubMirror, tmp_path: Path
) -> None:
    files = {"config.json": "{}", "pytorch_model.bin": "old", "tf_model.h5": "other"}
    hub.publish("models", "owner/bert", a_folder(tmp_path / "1", files))
    folder = download_model("hf://owner/bert", "main", "spec.model.uri", lambda _: None, other_weights=other)
    assert sorted(path.name for path in folder.iterdir()) == expected


@pytest.mark.parametrize(
    ("fields", "token", "error", "reason", "message", "hint"),
    [
        pytest.param(
            {"uri": "hf://owner/rwos"},
            None,
            ConfigError,
            "NotFound",
            "the hub has no dataset owner/rwos",
            "check owner/name; a private one needs a Secret with HF_TOKEN in spec.dataset.train[0].secretRef",
            id="no such repository",
        ),
        pytest.param(
            {"uri": "hf://owner/private"},
            None,
            ConfigError,
            "NotFound",
            "the hub has no dataset owner/private",
            "check owner/name; a private one needs a Secret with HF_TOKEN in spec.dataset.train[0].secretRef",
            id="private, without a token",
        ),
        pytest.param(
            {"uri": "hf://owner/private"},
            "hf_wrong",
            AuthError,
            "NotAllowed",
            "the hub does not give out owner/private",
            "check that the HF_TOKEN of the Secret in spec.dataset.train[0].secretRef is valid and may read it",
            id="private, with a wrong token",
        ),
        pytest.param(
            {"uri": "hf://owner/gated"},
            TOKEN,
            AuthError,
            "NotAllowed",
            "the hub does not give out owner/gated",
            "accept its terms, then name a Secret with HF_TOKEN in spec.dataset.train[0].secretRef",
            id="gated",
        ),
        pytest.param(
            {"uri": "hf://owner/rows", "revision": "v2"},
            None,
            ConfigError,
            "NotFound",
            "owner/rows has no revision v2",
            "name a commit, a tag or a branch that the hub shows",
            id="no such revision",
        ),
        pytest.param(
            {"uri": "hf://owner/rows", "revision": "0" * 40},
            None,
            ConfigError,
            "NotFound",
            f"owner/rows has no revision {'0' * 40}",
            "name a commit, a tag or a branch that the hub shows",
            id="no such commit",
        ),
        pytest.param(
            {"uri": "hf://owner/name--with..dots"},
            None,
            ConfigError,
            "NotFound",
            "the hub has no dataset owner/name--with..dots",
            "write hf://owner/name",
            id="no name for a repository",
        ),
    ],
)
def test_what_the_hub_may_answer(
    fields: dict[str, str],
    token: str | None,
    error: type[RunError],
    reason: str,
    message: str,
    hint: str,
    hub: HubMirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = a_folder(tmp_path / "1", {"a.csv": "text,label\na,b\n"})
    hub.publish("datasets", "owner/rows", folder)
    hub.publish("datasets", "owner/private", folder, private=True)
    hub.publish("datasets", "owner/gated", folder, gated=True)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(RunError) as caught:
        load_source(Source(**fields), TEXTS, {}, Places(), FIELD)
    assert type(caught.value) is error
    assert (caught.value.reason, caught.value.message, caught.value.hint) == (reason, f"{FIELD}.uri: {message}", hint)


def test_a_private_data_set_with_its_token(hub: HubMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("datasets", "owner/rows", a_folder(tmp_path / "1", {"a.csv": "text,label\na,b\n"}), private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert values(load()) == [{"text": "a", "label": "b"}]


def test_a_split_that_the_data_set_does_not_have(hub: HubMirror, tmp_path: Path) -> None:
    hub.publish("datasets", "owner/rows", a_folder(tmp_path / "1", {"train.csv": "text,label\na,b\n"}))
    with pytest.raises(ConfigError) as caught:
        load(split="validation")
    assert caught.value.message == "hf://owner/rows has no split 'validation'"
    assert caught.value.hint == "splits there are: train"


def test_a_hub_that_does_not_answer(hub: HubMirror) -> None:
    """That may pass, so the run is tried again, where a wrong name would end it."""
    hub.stop()
    with pytest.raises(RunError) as caught:
        load()
    assert type(caught.value) is Unavailable
    assert caught.value.message.startswith(f"{FIELD}.uri: the hub did not give owner/rows: ")
    assert caught.value.hint == "without a network use pvc://, pkg:// or file://"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(
            "Data processing error: File I/O error: No space left on device (os error 28)", StorageFull, id="full"
        ),
        pytest.param("Data processing error: CAS service error: Network error", Unavailable, id="network"),
    ],
)
def test_errors_of_the_hubs_downloader_in_rust(text: str, error: type[RunError]) -> None:
    """It says everything by RuntimeError; what it says is all there is to go by."""

    def ask() -> str:
        raise RuntimeError(text)

    with pytest.raises(error, match=r"^spec\.model\.uri: "):
        explained(Repository("owner/bert", "model", None, "spec.model.uri"), ask)


@pytest.mark.torch
def test_a_run_from_the_hub(tmp_path: Path, small_run: ARun, models: Callable[[str], Path]) -> None:
    """The real program: the supervisor downloads once, and the rank, which stays off the network, finds everything."""
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "train.csv", sentences(60))
    with HubMirror() as hub:
        model = hub.publish("models", "owner/bert", models("bert"), private=True)
        rows = hub.publish("datasets", "owner/rows", tmp_path / "rows", private=True)
        run = small_run.with_("model", uri="hf://owner/bert").with_("dataset", train=[{"uri": "hf://owner/rows"}])
        run = run.with_("training", maxSteps=2, numTrainEpochs=None)
        log, outcome = execute(run, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "hf"))
    assert outcome.failure is None, log
    assert hub.requested.count(f"GET /owner/bert/resolve/{model}/config.json") == 1
    record = run.read("run.json")
    assert [source["revision"] for source in record["data"]["sources"]] == [rows]
    assert record["model"]["revision"] == model


def execute(run: ARun, **environment: str) -> tuple[str, Outcome]:
    """The program's log and termination message."""
    message = run.root / "termination"
    process = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", str(run.write())],
        env={**os.environ, "FINETUNE_TERMINATION_LOG": str(message), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return process.stdout + process.stderr, Outcome.model_validate_json(message.read_text())
