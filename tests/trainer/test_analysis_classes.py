"""Tables of classes: what was taken for what, how sure a model was of it, and what other thresholds would bring."""

from __future__ import annotations

import numpy
import pytest
from sklearn import metrics as sk

from finetune_trainer.analysis import LONGEST_NAME
from finetune_trainer.analysis.calibration import calibration, of_indicators, of_labels
from finetune_trainer.analysis.confusion import MOST_CLASSES, MOST_LABELS, OTHER, confusion, per_class
from finetune_trainer.analysis.thresholds import MOST, thresholds


def draw(*shape: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).random(shape)


class TestConfusion:
    def test_counts_stand_at_the_true_class_and_the_guessed_one(self) -> None:
        truth, guess = numpy.array([0, 0, 1, 1, 2]), numpy.array([0, 1, 1, 1, 0])
        assert confusion(truth, guess, ["a", "b", "c"]) == {
            "labels": ["a", "b", "c"],
            "counts": [[1, 1, 0], [0, 2, 0], [1, 0, 0]],
            "other": False,
        }

    def test_of_many_classes_the_rare_ones_are_joined(self) -> None:
        """Each row still counts once, and the shown classes have the counts that they have without joining."""
        labels = [str(number) for number in range(200)]
        frequent = numpy.arange(200) % 4 == 0
        truth = numpy.concatenate([numpy.repeat(numpy.flatnonzero(frequent), 3), numpy.arange(200)])
        guess = numpy.roll(truth, 1)
        found = confusion(truth, guess, labels)
        shown = [label for label, often in zip(labels, frequent, strict=True) if often][: MOST_LABELS - 1]
        assert (found["labels"], found["other"]) == ([*shown, OTHER], True)
        assert numpy.sum(found["counts"]) == len(truth)
        whole = sk.confusion_matrix(truth, guess)[
            numpy.ix_([int(name) for name in shown], [int(name) for name in shown])
        ]
        assert [row[:-1] for row in found["counts"][:-1]] == whole.tolist()

    def test_fifty_classes_are_all_shown(self) -> None:
        truth = numpy.arange(MOST_LABELS)
        assert confusion(truth, truth, list(map(str, truth)))["other"] is False


class TestPerClass:
    def test_each_class_has_its_scores_the_most_frequent_first(self) -> None:
        """Also where a class is named as a row of scikit-learn's report."""
        truth, guess = numpy.array([0, 0, 1, 1, 1]), numpy.array([0, 0, 0, 1, 1])
        assert per_class(truth, guess, ["accuracy", "macro avg", "never"]) == [
            {"label": "macro avg", "precision": 1.0, "recall": 0.6667, "f1": 0.8, "support": 3},
            {"label": "accuracy", "precision": 0.6667, "recall": 1.0, "f1": 0.8, "support": 2},
            {"label": "never", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
        ]

    def test_of_several_labels_a_row_they_are_those_of_scikit_learn(self) -> None:
        truth, guess = draw(50, 3, seed=1) > 0.6, draw(50, 3, seed=2) > 0.4
        found = {line["label"]: line for line in per_class(truth, guess, ["a", "b", "c"])}
        assert found["b"] == {
            "label": "b",
            "precision": round(sk.precision_score(truth[:, 1], guess[:, 1]), 4),
            "recall": round(sk.recall_score(truth[:, 1], guess[:, 1]), 4),
            "f1": round(sk.f1_score(truth[:, 1], guess[:, 1]), 4),
            "support": truth[:, 1].sum(),
        }

    def test_one_label_that_is_there_or_not(self) -> None:
        truth, guess = numpy.array([[1], [0], [1]], dtype=bool), numpy.array([[1], [1], [0]], dtype=bool)
        assert per_class(truth, guess, ["a"]) == [
            {"label": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
        ]

    def test_of_many_classes_the_most_frequent_are_kept_and_long_names_cut(self) -> None:
        truth = numpy.append(numpy.arange(MOST_CLASSES + 7), MOST_CLASSES + 6)
        found = per_class(truth, truth, [f"{number} {'x' * 200}" for number in range(MOST_CLASSES + 7)])
        assert len(found) == MOST_CLASSES
        assert found[0]["label"].startswith(str(MOST_CLASSES + 6))
        assert len(found[0]["label"]) == LONGEST_NAME


class TestCalibration:
    def test_named_bins(self) -> None:
        """Two rows at 0.7 of which one is right, one at 1.0: (2 * 0.2 + 0) / 3."""
        found = calibration(numpy.array([0.7, 0.7, 1.0]), numpy.array([True, False, True]))
        assert found == {
            "ece": round(0.4 / 3, 6),
            "bins": [
                {"from": 0.6667, "to": 0.7333, "rows": 2, "confidence": 0.7, "accuracy": 0.5},
                {"from": 0.9333, "to": 1.0, "rows": 1, "confidence": 1.0, "accuracy": 1.0},
            ],
        }

    @pytest.mark.torch
    @pytest.mark.parametrize("classes", [2, 5])
    def test_of_labels_the_error_is_that_of_torchmetrics(self, classes: int) -> None:
        import torch
        from torchmetrics.functional.classification import multiclass_calibration_error

        scores = draw(300, classes, seed=1).astype("float32") ** 3
        scores /= scores.sum(-1, keepdims=True)
        truth = (draw(300, seed=2) * classes).astype(int)
        expected = multiclass_calibration_error(torch.from_numpy(scores), torch.from_numpy(truth), classes, n_bins=15)
        assert of_labels(truth, scores)["ece"] == pytest.approx(float(expected), abs=1e-5)

    @pytest.mark.torch
    def test_of_several_labels_a_row_the_error_is_that_of_torchmetrics(self) -> None:
        import torch
        from torchmetrics.functional.classification import binary_calibration_error

        scores, truth = draw(200, 3, seed=1).astype("float32"), draw(200, 3, seed=2) > 0.5
        expected = binary_calibration_error(torch.from_numpy(scores.ravel()), torch.from_numpy(truth.ravel()).int())
        assert of_indicators(truth, scores)["ece"] == pytest.approx(float(expected), abs=1e-5)

    @pytest.mark.parametrize("confidence", [pytest.param([], id="no rows"), pytest.param([0.5, numpy.nan], id="NaN")])
    def test_nothing_of_nothing(self, confidence: list[float]) -> None:
        assert calibration(numpy.array(confidence), numpy.ones(len(confidence))) == {}


class TestThresholds:
    def test_each_score_is_a_threshold(self) -> None:
        truth, scores = numpy.array([False, True, False, True]), numpy.array([0.1, 0.3, 0.6, 0.9])
        assert thresholds(truth, scores) == [
            {"threshold": 0.1, "precision": 0.5, "recall": 1.0, "f1": 0.6667, "accuracy": 0.5},
            {"threshold": 0.3, "precision": 0.6667, "recall": 1.0, "f1": 0.8, "accuracy": 0.75},
            {"threshold": 0.6, "precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.5},
            {"threshold": 0.9, "precision": 1.0, "recall": 0.5, "f1": 0.6667, "accuracy": 0.75},
        ]

    def test_of_many_scores_the_best_is_kept_and_each_line_is_what_scikit_learn_says(self) -> None:
        truth = draw(900, seed=1) > 0.7
        scores = numpy.clip(truth * 0.2 + draw(900, seed=2), 0, 1)
        found = thresholds(truth, scores)
        assert len(found) <= MOST
        cuts = numpy.unique(scores)
        best = max(sk.f1_score(truth, scores >= cut) for cut in cuts)
        assert max(line["f1"] for line in found) == pytest.approx(best, abs=1e-4)
        usual = next(line for line in found if line["threshold"] >= 0.5)
        assert usual["threshold"] == pytest.approx(cuts[cuts >= 0.5][0], abs=1e-6)
        for line in found:
            guess = scores >= line["threshold"] - 1e-6
            assert line == {
                "threshold": line["threshold"],
                "precision": pytest.approx(sk.precision_score(truth, guess), abs=1e-4),
                "recall": pytest.approx(sk.recall_score(truth, guess), abs=1e-4),
                "f1": pytest.approx(sk.f1_score(truth, guess), abs=1e-4),
                "accuracy": pytest.approx(sk.accuracy_score(truth, guess), abs=1e-4),
            }

    @pytest.mark.parametrize(
        ("truth", "scores"),
        [
            pytest.param([True, True], [0.1, 0.9], id="all are of one kind"),
            pytest.param([False, False], [0.1, 0.9], id="all are of the other"),
            pytest.param([True, False], [0.1, numpy.nan], id="a score that is no number"),
        ],
    )
    def test_nothing_where_there_is_no_choice(self, truth: list[bool], scores: list[float]) -> None:
        assert thresholds(numpy.array(truth), numpy.array(scores)) == []
