"""The chart, rendered by the helm of the test cluster's tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from support.cluster.access import CHART, OPERATOR_NAMESPACE
from support.cluster.build import KUBERNETES_VERSION, build
from support.cluster.layout import Layout, default_cache
from support.cluster.process import run

Object = dict[str, Any]
Render = Callable[..., list[Object]]


@pytest.fixture(scope="session")
def render() -> Render:
    """`render(setting, …)`: every object of the chart with these `--set` settings."""
    helm = build(Layout(default_cache()))["helm"]

    def rendered(*settings: str) -> list[Object]:
        options = [option for setting in settings for option in ("--set", setting)]
        options.append(f"--kube-version={KUBERNETES_VERSION}")
        text = run([helm, "template", "finetune", str(CHART), f"--namespace={OPERATOR_NAMESPACE}", *options])
        return [document for document in yaml.safe_load_all(text) if document]

    return rendered
