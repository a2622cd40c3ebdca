"""Manifests are read as kubectl reads them, and every mistake is told with its field and what would work."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import Task
from finetune_api.manifest import InvalidManifest, Problem, parse_job, read_yaml
from support.manifests import a_manifest


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("1e-4", 0.0001, id="exponent without a dot is a number"),
        pytest.param("yes", True, id="YAML 1.1 boolean"),
        pytest.param("2001-01-01", "2001-01-01", id="a date stays text"),
        pytest.param("12:30", "12:30", id="no base sixty"),
        pytest.param("0o17", 15, id="octal"),
        pytest.param("0777", 511, id="octal as C writes it"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("~", None, id="null"),
        pytest.param("'1'", "1", id="quoted digits are text"),
        pytest.param("{1: a, true: b}", {"1": "a", "true": "b"}, id="keys are text"),
        pytest.param("[&a {b: 1}, {<<: *a, b: 2}]", [{"b": 1}, {"b": 2}], id="merge keys"),
    ],
)
def test_yaml_resolves_as_kubectl_does(text: str, value: Any) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'", id="a list that does not end"
        ),
        pytest.param("a: 1\na: 2", "line 2, column 1: key 'a' stands twice", id="a key twice"),
    ],
)
def test_text_that_is_not_yaml_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        read_yaml(text)
    assert str(refused.value) == problem


def test_only_task_model_and_training_rows_are_required() -> None:
    job = parse_job(a_manifest())
    assert (job.spec.training.num_train_epochs, job.spec.resources.nodes, job.spec.method.type) == (3.0, 1, "full")


def test_null_means_absent() -> None:
    """Every optional field may be null, at any depth, and then has its default."""
    spec = a_manifest()["spec"] | {"training": {"seed": None, "maxSteps": None}, "method": None, "runtimeRef": None}
    assert parse_job(a_manifest() | {"spec": spec}) == parse_job(a_manifest())


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        pytest.param({"task": None}, [Problem("spec.task", "is required")], id="missing field"),
        pytest.param(
            {"task": "text-clasification"},
            [
                Problem(
                    "spec.task",
                    f"'text-clasification' is not one of {', '.join(repr(str(task)) for task in Task)}",
                    "did you mean text-classification?",
                )
            ],
            id="unknown value",
        ),
        pytest.param(
            {"training": {"learning_rte": 1, "learningRate": 2}},
            [
                Problem("spec.training.learningRate", "2 is more than 1.0"),
                Problem("spec.training.learning_rte", "there is no such field", "did you mean learningRate?"),
            ],
            id="two mistakes are told at once",
        ),
        pytest.param(
            {"model": {"uri": "ftp://host/model"}},
            [
                Problem(
                    "spec.model.uri",
                    "'ftp://host/model' has a form that does not fit",
                    "use hf://, pkg://, pvc://claim/path, s3://, gs://, az://, https://, file:///absolute/path, "
                    "or ./path with `finetune run`",
                )
            ],
            id="a place we cannot read",
        ),
        pytest.param(
            {"training": {"warmupSteps": 10, "warmupRatio": 0.1}},
            [Problem("spec.training", "set at most one of warmupSteps and warmupRatio")],
            id="two fields that exclude each other",
        ),
        pytest.param(
            {"dataset": {"train": [{"uri": "pkg://data/rows.csv"}], "test": {"fraction": 0.1, "sources": []}}},
            [Problem("spec.dataset.test.sources", "[] has fewer than 1 entries")],
            id="empty list",
        ),
        pytest.param(
            {"evaluation": {"strategy": "Steps"}},
            [Problem("spec.evaluation", "set steps when, and only when, strategy is Steps")],
            id="a field that needs another",
        ),
        pytest.param(
            {"resources": {"processesPerNode": "many"}},
            [Problem("spec.resources.processesPerNode", "'many' is no whole number, and not 'auto'")],
            id="a number or a word",
        ),
        pytest.param(
            {"trainer": {"env": [{"name": "RANK", "value": "0"}]}},
            [Problem("spec.trainer.env[0]", "the operator sets this variable; choose another name")],
            id="a reserved variable",
        ),
    ],
)
def test_mistakes_are_told_with_field_reason_and_hint(changes: dict[str, Any], problems: list[Problem]) -> None:
    with pytest.raises(InvalidManifest) as refused:
        parse_job(a_manifest(**changes))
    assert sorted(refused.value.problems, key=str) == sorted(problems, key=str)


def test_a_name_too_long_for_its_pods_is_refused() -> None:
    manifest = a_manifest() | {"metadata": {"name": "a" * 37}}
    with pytest.raises(InvalidManifest, match=r"^metadata\.name: .* has more than 36 characters$"):
        parse_job(manifest)


def test_a_file_without_an_object_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="file: holds no object"):
        parse_job(read_yaml("just text"))
