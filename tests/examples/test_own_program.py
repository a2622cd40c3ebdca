"""The example of a program of one's own, in two processes that are told what two pods would be."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_api.progress import FailureClass, Result
from support.own_programs import EXAMPLE, LocalPods, example
from support.progress_server import ProgressServerForTests

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]
SCRIPT = EXAMPLE / "train.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProgressServerForTests]:
    with ProgressServerForTests(tmp_path) as server:
        yield server


def torchrun(script: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("torchrun")), str(script)]


def steps(server: ProgressServerForTests) -> list[float]:
    return [received.numbers["step"] for received in server.received]


def test_it_saves_when_it_is_told_to_stop_and_goes_on_where_it_was(
    tmp_path: Path, server: ProgressServerForTests
) -> None:
    pods = LocalPods(tmp_path, example(training={"maxSteps": 600}), server)
    first, second = pods.start(lambda _: torchrun(SCRIPT))
    while not steps(server):
        assert first.process.poll() is None, first.log
        time.sleep(0.01)
    second.send(signal.SIGTERM)
    ends = [first.end(), second.end()]
    assert ends[1].code == 143, ends[1].log
    assert ends[1].outcome.outcome is Result.PREEMPTED
    assert (pods.output / "checkpoints" / "newest.pt").exists(), ends[0].log
    before = len(server.received)
    ends = [pod.end() for pod in pods.start(lambda _: torchrun(SCRIPT))]
    assert [end.code for end in ends] == [0, 0], ends[0].log + ends[1].log
    later = [received.numbers for received in server.received[before:]]
    assert 0 < later[0]["resumed_from_step"] < later[0]["step"]
    assert later[-1]["step"] == 600
    assert later[-1]["test_accuracy"] > 0.5
    assert later[-1]["loss"] < server.received[0].numbers["loss"]
    assert (pods.output / "model.pt").exists()


FAULT = """
    if rank == 1:
        raise ValueError("row 17 has no label")
"""


def test_the_pod_with_the_cause_tells_it_and_the_other_that_it_lost_a_peer(
    tmp_path: Path, server: ProgressServerForTests
) -> None:
    place = "    vectors = load_file("
    text = SCRIPT.read_text()
    assert place in text
    broken = tmp_path / "broken.py"
    broken.write_text(text.replace(place, f"{FAULT}{place}"))
    pods = LocalPods(tmp_path, example(), server)
    first, second = (pod.end() for pod in pods.start(lambda _: torchrun(broken)))
    assert second.outcome.failure is not None
    assert (second.code, second.outcome.failure.class_) == (1, FailureClass.CODE_ERROR)
    assert (second.outcome.failure.rank, second.outcome.failure.message) == (
        1,
        "rank 1: ValueError: row 17 has no label",
    )
    assert first.outcome.failure is not None, first.log
    assert (first.code, first.outcome.failure.reason) == (1, "PeerLost")


def test_the_config_map_that_the_manifest_mounts_is_the_one_that_is_made() -> None:
    made = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
    (generated,) = made["configMapGenerator"]
    spec = example()["spec"]
    (volume,) = spec["podTemplate"]["spec"]["volumes"]
    (mount,) = spec["podTemplate"]["spec"]["containers"][0]["volumeMounts"]
    assert made["generatorOptions"]["disableNameSuffixHash"] is True
    assert (generated["name"], mount["name"]) == (volume["configMap"]["name"], volume["name"])
    assert spec["trainer"]["command"][-1] == f"{mount['mountPath']}/{generated['files'][0]}"
    assert made["resources"] == ["manifest.yaml"]
