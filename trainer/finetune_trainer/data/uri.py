"""URIs to paths. A package's files are found without importing the package."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.fields import split_volume_uri, uri_scheme
from finetune_trainer.data import remote
from finetune_trainer.errors import ConfigError, nearest
from finetune_trainer.fetching.downloads import Downloads


@dataclass(frozen=True)
class Places:
    """What URIs are relative to: the folder of each claim, and the folder of `./path`.

    `downloads` is where remote ones are kept for other jobs, too; None where each run has its own.
    """

    volumes: Mapping[str, str] = field(default_factory=dict)
    base_folder: str | None = None
    downloads: Downloads | None = None


def is_hub(uri: str) -> bool:
    return uri_scheme(uri) == "hf"


def hub_repository(uri: str, field_path: str) -> str:
    """`owner/name` of `hf://owner/name`."""
    repository = uri.removeprefix("hf://").strip("/")
    if repository.count("/") > 1:
        raise ConfigError(
            "InvalidUri", f"{field_path}: {uri} names a path inside a repository", "write hf://owner/name"
        )
    return repository


def local_path(uri: str, places: Places, field_path: str) -> Path:
    """The path that `uri` names, downloaded if it is elsewhere.

    Raises ConfigError, naming `field_path`, if there is nothing; what `remote.fetch` raises if a download fails.
    """
    if uri_scheme(uri) in remote.SCHEMES:
        return remote.fetch(uri, field_path, places.downloads)
    path = _path_of(uri, places, field_path)
    if ".." in path.parts:
        raise ConfigError("InvalidUri", f"{field_path}: {uri} leaves its folder", "write the path without ..")
    if not path.exists():
        raise ConfigError("NotFound", f"{field_path}: {uri} does not exist", _neighbours(path))
    return path


def _path_of(uri: str, places: Places, field_path: str) -> Path:
    scheme = uri_scheme(uri)
    if scheme == "pkg":
        return _in_package(uri, field_path)
    if scheme == "file":
        return Path("/" + uri.removeprefix("file://").lstrip("/"))
    if scheme == "pvc":
        claim, path = split_volume_uri(uri)
        if claim not in places.volumes:
            hint = nearest(claim, places.volumes, "volumes of this run")
            raise ConfigError("VolumeNotMounted", f"{field_path}: {uri} names a volume that is not mounted", hint)
        return Path(places.volumes[claim], path)
    if places.base_folder is None:
        raise ConfigError(
            "InvalidUri", f"{field_path}: {uri} is relative, which only `finetune run` knows", "use pvc:// or pkg://"
        )
    return Path(places.base_folder, uri)


def _in_package(uri: str, field_path: str) -> Path:
    package, _, path = uri.removeprefix("pkg://").partition("/")
    folder = _package_folder(package)
    if folder is None:
        message = f"{field_path}: {uri} names the Python package {package}, which is not installed"
        raise ConfigError("PackageNotFound", message, "install it here, or build it into the trainer image")
    return folder / path


def _package_folder(package: str) -> Path | None:
    """Folder of an installed package; for `a.b` the parent `a` is looked up and `b` taken as its subfolder."""
    root, *below = package.split(".")
    try:
        spec: importlib.machinery.ModuleSpec | None = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)), *below)


def _neighbours(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = [item.name for item in parent.iterdir() if not item.name.startswith((".", "__"))]
    return nearest(path.name, names, f"in {parent.name or parent} there are")
