"""Promises about the tree itself that no type checker keeps."""

from __future__ import annotations

import operator
import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_the_folder_operator_does_not_shadow_the_standard_module() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert operator.add(1, 2) == 3


def test_chart_and_distribution_have_one_version() -> None:
    chart = yaml.safe_load((ROOT / "charts/finetune-operator/Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_the_lock_file_names_no_address() -> None:
    """Addresses would tie an installation to one mirror."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > 100


def test_every_requirement_of_pyproject_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    requirements = [Requirement(text) for text in wanted]
    outside = [str(item) for item in requirements if not item.specifier.contains(locked.get(item.name.lower(), "0"))]
    assert outside == []
