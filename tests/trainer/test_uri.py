"""A URI becomes a path, or a message that names the field and what there is instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from finetune_trainer.data.uri import Places, local_path
from finetune_trainer.errors import ConfigError

FIELD = "spec.model.uri"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A volume, a base folder and a package that fails when it is imported, each with rows.csv."""
    package = tmp_path / "site" / "sample_package"
    for folder in (tmp_path / "volume" / "deep", tmp_path / "base", package):
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text("text,label\n")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    return Places({"data": str(tmp_path / "volume")}, str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        pytest.param("pvc://data/deep/rows.csv", "volume/deep/rows.csv", id="volume"),
        pytest.param("pvc://data", "volume", id="whole volume"),
        pytest.param("./rows.csv", "base/rows.csv", id="relative"),
        pytest.param("pkg://sample_package/rows.csv", "site/sample_package/rows.csv", id="package"),
    ],
)
def test_path(uri: str, path: str, places: Places, tmp_path: Path) -> None:
    assert local_path(uri, places, FIELD) == tmp_path / path


def test_a_package_is_found_without_importing_it(places: Places) -> None:
    local_path("pkg://sample_package/rows.csv", places, FIELD)
    assert "sample_package" not in sys.modules


def test_an_absolute_path(tmp_path: Path) -> None:
    assert local_path(tmp_path.as_uri(), Places(), FIELD) == tmp_path


@pytest.mark.parametrize(
    ("uri", "reason", "message", "hint"),
    [
        pytest.param(
            "pvc://dta/rows.csv",
            "VolumeNotMounted",
            "spec.model.uri: pvc://dta/rows.csv names a volume that is not mounted",
            "did you mean data? volumes of this run: data",
            id="volume that is not there",
        ),
        pytest.param(
            "pkg://no_such_package/model",
            "PackageNotFound",
            "spec.model.uri: pkg://no_such_package/model names the Python package no_such_package, which is not"
            " installed",
            "install it here, or build it into the trainer image",
            id="package that is not there",
        ),
        pytest.param(
            "pkg://sample_package/row.csv",
            "NotFound",
            "spec.model.uri: pkg://sample_package/row.csv does not exist",
            "did you mean rows.csv? in sample_package there are: rows.csv",
            id="file that is not there",
        ),
        pytest.param(
            "pvc://data/../base/rows.csv",
            "InvalidUri",
            "spec.model.uri: pvc://data/../base/rows.csv leaves its folder",
            "write the path without ..",
            id="out of the volume",
        ),
    ],
)
def test_what_is_wrong(uri: str, reason: str, message: str, hint: str, places: Places) -> None:
    with pytest.raises(ConfigError) as caught:
        local_path(uri, places, FIELD)
    assert (caught.value.reason, caught.value.message, caught.value.hint) == (reason, message, hint)


def test_a_relative_path_needs_a_base() -> None:
    with pytest.raises(ConfigError, match=r"\./rows.csv is relative, which only `finetune run` knows"):
        local_path("./rows.csv", Places(), FIELD)
