"""Which run a spec asks for: a no-op apply or an upgrade starts nothing, a changed spec does."""

from typing import Any

import pytest

from finetune_api.status import Phase, Run, Status
from finetune_operator.core.job import current_run, read_status, spec_changed, spec_hash
from support.builders import AJob, a_job


def finished(job: AJob, **changes: Any) -> AJob:
    run = Run(index=1, generation=1, spec_hash=spec_hash(job.job.spec))
    status = Status(phase=Phase.SUCCEEDED, run=run, attempt=2).model_copy(update=changes)
    return job.with_status(status)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"training": {"seed": None}}, True, id="null is absent"),
        pytest.param({"runPolicy": {"backoffLimit": 9}}, True, id="policy is no part of a run"),
        pytest.param({"runPolicy": {"suspend": True}}, True, id="suspend is no part of a run"),
        pytest.param({"tracking": [{"type": "tensorboard"}]}, True, id="a tracker changes no result"),
        pytest.param({"training": {"seed": 7}}, False, id="a field of training"),
        pytest.param({"evaluation": {"gate": [{"metric": "test_f1", "min": 1}]}}, False, id="another gate"),
        pytest.param({"trainer": {"image": "trainer:2"}}, False, id="the image"),
        pytest.param({"resources": {"memory": "2Gi"}}, False, id="more memory may cure a failed run"),
        pytest.param({"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}, False, id="another pod may cure it"),
    ],
)
def test_hash_is_over_the_fields_that_define_a_run(change: dict[str, Any], same: bool) -> None:
    job = a_job().with_spec(training={"learningRate": 1e-4})
    assert (spec_hash(job.job.spec) == spec_hash(job.with_spec(**change).job.spec)) is same


def test_hash_does_not_tell_three_from_three_point_zero() -> None:
    whole, float_ = (a_job().with_spec(training={"numTrainEpochs": value}).job.spec for value in (3, 3.0))
    assert spec_hash(whole) == spec_hash(float_)


def test_hash_is_the_same_in_every_version_of_the_operator() -> None:
    """A change of the hash without a change of its version would start every finished job again."""
    assert spec_hash(a_job().job.spec) == "v1:235636dce0eac7f8b4149c05df9637ece05cb9e7b2c7cff2fd80f5defa6532e1"


def test_a_new_job_gets_its_first_run() -> None:
    job = a_job().job
    expected = Run(index=1, generation=1, spec_hash=spec_hash(job.spec))
    assert (current_run(job).run, current_run(job).attempt) == (expected, 0)


@pytest.mark.parametrize(
    ("job", "index", "attempt"),
    [
        pytest.param(finished(a_job()), 1, 2, id="nothing changed"),
        pytest.param(finished(a_job()).edited(runPolicy={"backoffLimit": 1}), 1, 2, id="only policy changed"),
        pytest.param(finished(a_job()).edited(training={"seed": 7}), 2, 0, id="another spec: another run"),
        pytest.param(
            finished(a_job()).edited(training={"seed": 7}, runPolicy={"onSpecChange": "Ignore"}), 1, 2, id="ignored"
        ),
        pytest.param(
            finished(a_job(), phase=Phase.RUNNING).edited(training={"seed": 7}), 1, 2, id="not before the run ends"
        ),
        pytest.param(
            finished(a_job(), run=Run(index=1, generation=1, spec_hash="v2:0")).edited(training={"seed": 7}),
            1,
            2,
            id="a hash of another version is adopted",
        ),
        pytest.param(
            finished(a_job(), run=Run(index=1, generation=1, spec_hash="v1:0")),
            1,
            2,
            id="another hash, same generation",
        ),
        pytest.param(
            finished(a_job(), phase=Phase.FAILED, attempt=0).edited(training={"seed": 7}), 1, 0, id="refused run"
        ),
    ],
)
def test_a_new_run_needs_another_generation_and_another_hash(job: AJob, index: int, attempt: int) -> None:
    current = current_run(job.job)
    assert (current.run.index, current.attempt) == (index, attempt)


def test_an_adopted_hash_is_written_in_our_version() -> None:
    job = finished(a_job(), run=Run(index=1, generation=1, spec_hash="v2:0")).job
    assert current_run(job).run.spec_hash == spec_hash(job.spec)


def test_an_edit_during_a_run_is_seen() -> None:
    running = finished(a_job(), phase=Phase.RUNNING)
    assert not spec_changed(running.job)
    assert spec_changed(running.edited(training={"seed": 7}).job)


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_is_known() -> None:
    raw = {"phase": "Dreaming", "attempt": 2, "dreams": 3, "nodes": {"desired": 2, "ready": 1, "asleep": 1}}
    status = read_status(raw)
    assert status.to_dict() == {
        "attempt": 2,
        "nodes": {"desired": 2, "ready": 1},
        "metrics": {},
        "conditions": [],
        "history": [],
    }
