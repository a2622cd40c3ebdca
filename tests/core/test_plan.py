"""`plan`: which image, which folder, which claims; and what is refused with words that help."""

from typing import Any

import pytest

from finetune_api.progress import FailureClass
from finetune_operator.core.plan import Plan, Refused, Runtime, Runtimes, claims, freeze, plan, thaw
from support.builders import RUNTIME, RUNTIMES, AJob, a_job

OWN = Runtime("team-a", "default", {"image": "own:1", "resources": {"cpu": "8"}})
BASE = "/volumes/models/reviews/team-a/reviews/0a1b2"


@pytest.mark.parametrize(
    ("job", "runtimes", "image"),
    [
        pytest.param(a_job(), RUNTIMES, "trainer:1", id="the operator's default"),
        pytest.param(a_job(), Runtimes(RUNTIME, OWN), "own:1", id="the namespace's own default"),
        pytest.param(a_job().with_spec(trainer={"image": "mine:1"}), Runtimes(RUNTIME, OWN), "mine:1", id="the job's"),
        pytest.param(a_job().with_spec(trainer={"image": "mine:1"}), Runtimes(), "mine:1", id="no runtime is needed"),
    ],
)
def test_image(job: AJob, runtimes: Runtimes, image: str) -> None:
    assert job.plan(runtimes).image == image


@pytest.mark.parametrize(
    ("spec", "run", "folder", "checkpoints", "output"),
    [
        pytest.param(
            {}, 1, BASE, f"{BASE}/checkpoints", "pvc://models/reviews/team-a/reviews/0a1b2", id="below the path"
        ),
        pytest.param(
            {"output": {"exact": True}},
            1,
            "/volumes/models/reviews",
            "/volumes/models/reviews/checkpoints",
            "pvc://models/reviews",
            id="exact",
        ),
        pytest.param(
            {},
            2,
            f"{BASE}/run-2",
            f"{BASE}/run-2/checkpoints",
            "pvc://models/reviews/team-a/reviews/0a1b2/run-2",
            id="a re-run has a folder of its own",
        ),
        pytest.param(
            {"checkpoint": {"uri": "pvc://fast"}},
            1,
            BASE,
            "/volumes/fast/team-a/reviews/0a1b2/checkpoints",
            "pvc://models/reviews/team-a/reviews/0a1b2",
            id="checkpoints on their own volume",
        ),
        pytest.param({"output": {"uri": None}}, 1, "/scratch", "/scratch/checkpoints", None, id="no volume"),
    ],
)
def test_folders(spec: dict[str, Any], run: int, folder: str, checkpoints: str, output: str | None) -> None:
    config = a_job().with_spec(**spec).plan(run=run).config
    assert (config.folder, config.checkpoint_folder, config.output_uri) == (folder, checkpoints, output)


def test_claims_are_written_to_only_where_the_run_writes() -> None:
    job = a_job().with_spec(model={"uri": "pvc://models/base"}, checkpoint={"uri": "pvc://fast/x"})
    assert claims(job.plan().config) == {"data": False, "models": True, "fast": True}


def refused(job: AJob, runtimes: Runtimes = RUNTIMES) -> Refused:
    result = plan(job.job, 1, runtimes)
    assert isinstance(result, Refused)
    return result


@pytest.mark.parametrize(
    ("job", "runtimes", "reason", "message"),
    [
        pytest.param(
            a_job(), Runtimes(), "NoImage", "spec.trainer.image: no image is named by the job", id="no image anywhere"
        ),
        pytest.param(
            a_job().with_spec(training={"learningRate": -1}),
            RUNTIMES,
            "InvalidSpec",
            "spec.training.learningRate: -1",
            id="out of range",
        ),
        pytest.param(
            a_job().with_spec(model={"uri": "./model"}),
            RUNTIMES,
            "InvalidSpec",
            "spec.model.uri: './model' is relative",
            id="a path of one machine",
        ),
        pytest.param(
            a_job().with_spec(podTemplate={"spec": {"hostNetwork": True}}),
            RUNTIMES,
            "InvalidSpec",
            "spec.podTemplate.spec.hostNetwork",
            id="host access",
        ),
        pytest.param(
            a_job(),
            Runtimes(Runtime("finetune", "default", {"image": "a:1", "resources": {"nodes": 0}})),
            "InvalidRuntime",
            "FineTuneRuntime finetune/default: spec.resources.nodes: 0 is less than 1",
            id="a runtime's fault is told as the runtime's",
        ),
        pytest.param(
            a_job(),
            Runtimes(Runtime("finetune", "default", {"image": "a:1", "podTemplate": {"spec": {"hostPID": True}}})),
            "InvalidRuntime",
            "FineTuneRuntime finetune/default: spec.podTemplate.spec.hostPID",
            id="a runtime cannot loosen pods either",
        ),
    ],
)
def test_bad_configuration_is_refused_by_field(job: AJob, runtimes: Runtimes, reason: str, message: str) -> None:
    failure = refused(job, runtimes).failure
    assert (failure.class_, failure.reason) == (FailureClass.CONFIG_ERROR, reason)
    assert message in failure.message
    assert failure.hint


def test_every_fault_is_told_at_once() -> None:
    job = a_job().with_spec(training={"learningRate": -1, "trainBatchSize": 0})
    message = refused(job).failure.message
    assert "spec.training.learningRate" in message
    assert "spec.training.trainBatchSize" in message


def test_a_missing_runtime_is_waited_for() -> None:
    result = refused(a_job().with_spec(runtimeRef={"name": "h200"}))
    assert result.waits
    assert result.failure.reason == "RuntimeNotFound"
    assert "FineTuneRuntime h200 in team-a" in result.failure.message
    assert not refused(a_job(), Runtimes()).waits


def test_a_frozen_plan_thaws_to_the_same_plan() -> None:
    job = (
        a_job()
        .with_nodes(2)
        .with_spec(
            trainer={"env": [{"name": "A", "value": "1"}]}, podTemplate={"spec": {"nodeSelector": {"gpu": "b200"}}}
        )
    )
    made = job.plan(Runtimes(RUNTIME, OWN)).with_attempt(3)
    assert thaw(freeze(made)) == made


def test_later_attempts_differ_in_number_and_names_only() -> None:
    first = a_job().plan()
    second = first.with_attempt(2)
    assert (first.name, second.name) == ("reviews-0a1b2-r1a1", "reviews-0a1b2-r1a2")
    assert second.with_attempt(1) == first


@pytest.mark.parametrize("data", [{}, {"run.json": "{}"}, {"run.json": "", "runtime.json": "[]"}])
def test_what_is_no_frozen_plan_is_refused(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        thaw(data)


def test_plans_share_nothing_that_can_change() -> None:
    """Two jobs planned over the same runtime do not see each other's podTemplate."""
    runtimes = Runtimes(Runtime("finetune", "default", {"image": "a:1", "podTemplate": {"spec": {"volumes": []}}}))
    volume = {"name": "v", "emptyDir": {}}
    one = a_job().with_spec(podTemplate={"spec": {"volumes": [volume]}}).plan(runtimes)
    other = a_job("other").plan(runtimes)
    assert isinstance(other, Plan)
    assert (one.pod_template.spec, other.pod_template.spec) == ({"volumes": [volume]}, {"volumes": []})
