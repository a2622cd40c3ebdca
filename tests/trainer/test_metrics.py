"""Each metric is what its reference library says of the same predictions, and is left out where it is not defined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import jiwer
import numpy
import pytest
import sacrebleu
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from sklearn import metrics as sk

from finetune_trainer.metrics import classification, entities, generation, reading, regression, retrieval, speech

WORDS = st.lists(st.sampled_from(["the", "a", "cat", "cats", "sat", "mat.", "on"]), max_size=6).map(" ".join)
QUICK = settings(max_examples=50, deadline=None)


def draw(*shape: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).random(shape)


def probabilities(rows: int, classes: int, seed: int = 0) -> numpy.ndarray:
    scores = draw(rows, classes, seed=seed)
    return scores / scores.sum(-1, keepdims=True)


class TestSingleLabel:
    @pytest.mark.parametrize(
        "classes", [pytest.param(2, id="two classes"), pytest.param(4, id="four"), pytest.param(9, id="more than five")]
    )
    def test_values_are_those_of_scikit_learn(self, classes: int) -> None:
        truth = numpy.arange(60) % classes
        scores = probabilities(60, classes)
        guess = scores.argmax(-1)
        area = sk.roc_auc_score(truth, scores[:, 1] if classes == 2 else scores, multi_class="ovr")
        expected = {
            "accuracy": sk.accuracy_score(truth, guess),
            "precision_macro": sk.precision_score(truth, guess, average="macro", zero_division=0),
            "recall_macro": sk.recall_score(truth, guess, average="macro"),
            "f1_macro": sk.f1_score(truth, guess, average="macro"),
            "roc_auc": area,
        }
        if classes > 5:
            expected["top5_accuracy"] = sk.top_k_accuracy_score(truth, scores, k=5)
        assert classification.single_label(truth, scores) == pytest.approx(expected)

    @pytest.mark.parametrize("classes", [2, 3, 6])
    def test_no_curve_where_a_class_has_no_row(self, classes: int) -> None:
        values = classification.single_label(numpy.zeros(4, dtype=int), probabilities(4, classes))
        assert "roc_auc" not in values
        assert all(map(math.isfinite, values.values()))


class TestMultiLabel:
    def test_values_are_those_of_scikit_learn(self) -> None:
        truth, scores = draw(50, 4, seed=1) > 0.6, draw(50, 4, seed=2)
        guess = scores >= 0.4
        values = classification.multi_label(truth, scores, threshold=0.4)
        expected = {"accuracy": sk.accuracy_score(truth, guess), "roc_auc_macro": sk.roc_auc_score(truth, scores)}
        for kind in ("macro", "micro"):
            expected[f"precision_{kind}"] = sk.precision_score(truth, guess, average=kind)
            expected[f"recall_{kind}"] = sk.recall_score(truth, guess, average=kind)
            expected[f"f1_{kind}"] = sk.f1_score(truth, guess, average=kind)
        assert values == pytest.approx(expected)

    def test_one_label_that_is_there_or_not(self) -> None:
        """Not the two classes for which scikit-learn takes a single column."""
        values = classification.multi_label(
            numpy.array([[1], [0], [1]], dtype=bool), numpy.array([[0.9], [0.8], [0.1]])
        )
        scores = dict.fromkeys(("precision", "recall", "f1"), 0.5)
        expected = {f"{name}_{kind}": value for name, value in scores.items() for kind in ("macro", "micro")}
        assert values == pytest.approx({"accuracy": 1 / 3, "roc_auc_macro": 0.5, **expected})

    def test_the_curve_is_over_classes_that_have_rows_with_and_without(self) -> None:
        truth, scores = draw(30, 4, seed=1) > 0.5, draw(30, 4, seed=2)
        truth[:, 0], truth[:, 3] = True, False
        values = classification.multi_label(truth, scores)
        assert values["roc_auc_macro"] == pytest.approx(sk.roc_auc_score(truth[:, 1:3], scores[:, 1:3]))

    def test_rows_without_any_label_can_be_right(self) -> None:
        values = classification.multi_label(numpy.zeros((3, 2), dtype=bool), numpy.zeros((3, 2)))
        zeros = {f"{name}_{kind}": 0.0 for name in ("precision", "recall", "f1") for kind in ("macro", "micro")}
        assert values == {"accuracy": 1.0, **zeros}


class TestNumbers:
    def test_values_are_those_of_scikit_learn_and_scipy(self) -> None:
        truth, guess = 40 * draw(30, seed=1) - 20, 40 * draw(30, seed=2) - 20
        assert regression.numbers(truth, guess) == pytest.approx(
            {
                "mae": sk.mean_absolute_error(truth, guess),
                "mse": sk.mean_squared_error(truth, guess),
                "rmse": sk.root_mean_squared_error(truth, guess),
                "r2": sk.r2_score(truth, guess),
                "pearson": stats.pearsonr(truth, guess).statistic,
            }
        )

    @pytest.mark.parametrize(
        ("truth", "guess", "names"),
        [
            pytest.param([2, 2, 2], [1, 2, 3], {"mae", "mse", "rmse"}, id="constant truth"),
            pytest.param([1, 2, 3], [2, 2, 2], {"mae", "mse", "rmse", "r2"}, id="constant guess"),
            pytest.param([1], [3], {"mae", "mse", "rmse"}, id="one row"),
            pytest.param([1, 2], [math.nan, 1], set(), id="a guess that is no number"),
            pytest.param([1, 2], [1, math.inf], set(), id="an infinite guess"),
            pytest.param([1, 2], [1e200, 1], {"mae", "pearson"}, id="a square that no float holds"),
        ],
    )
    def test_what_is_not_defined_is_left_out(self, truth: list[float], guess: list[float], names: set[str]) -> None:
        with warnings.catch_warnings(action="ignore"):
            values = regression.numbers(numpy.array(truth), numpy.array(guess))
        assert values.keys() == names
        assert all(map(math.isfinite, values.values()))


def tag_rows(prefixes: str) -> st.SearchStrategy[list[list[str]]]:
    tag = st.one_of(st.just("O"), *(st.sampled_from([f"{prefix}-A", f"{prefix}-B-1", prefix]) for prefix in prefixes))
    return st.lists(st.lists(tag, min_size=1, max_size=8), min_size=1, max_size=3)


class TestTags:
    @pytest.mark.parametrize("prefixes", [pytest.param("BI", id="IOB"), pytest.param("IE", id="IOE"), "BIES"])
    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_entities_are_those_of_seqeval(self, prefixes: str, data: st.DataObject) -> None:
        truth = data.draw(tag_rows(prefixes))
        guess = [data.draw(st.permutations(row)) for row in truth]
        values = entities.tags(truth, guess)
        with warnings.catch_warnings(action="ignore"):
            expected = {
                "accuracy": seqeval.metrics.accuracy_score(truth, guess),
                "precision": seqeval.metrics.precision_score(truth, guess, zero_division=0),
                "recall": seqeval.metrics.recall_score(truth, guess, zero_division=0),
                "f1": seqeval.metrics.f1_score(truth, guess, zero_division=0),
            }
        assert values == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            pytest.param(["B-PER", "I-PER", "O", "B-LOC"], [("PER", 0, 1), ("LOC", 3, 3)], id="IOB2"),
            pytest.param(["I-PER", "I-PER", "B-PER"], [("PER", 0, 1), ("PER", 2, 2)], id="IOB1"),
            pytest.param(["I-PER", "E-PER", "E-PER"], [("PER", 0, 1), ("PER", 2, 2)], id="IOE2"),
            pytest.param(["S-PER", "B-LOC", "E-LOC"], [("PER", 0, 0), ("LOC", 1, 2)], id="IOBES"),
            pytest.param(["B-PER", "I-LOC"], [("PER", 0, 0), ("LOC", 1, 1)], id="the type changes"),
            pytest.param(["O", "O"], [], id="none"),
        ],
    )
    def test_where_entities_are(self, row: list[str], expected: list[tuple[str, int, int]]) -> None:
        assert [(found.type, found.first, found.last) for found in entities.entities([row])] == expected

    def test_tags_that_mark_no_entities_are_judged_one_by_one(self) -> None:
        truth, guess = [["DET", "NOUN"], ["VERB"]], [["DET", "DET"], ["VERB"]]
        f1 = sk.f1_score(["DET", "NOUN", "VERB"], ["DET", "DET", "VERB"], average="macro")
        assert entities.tags(truth, guess) == {"accuracy": 2 / 3, "f1_macro": pytest.approx(f1)}


class TestAnswers:
    @pytest.mark.torch
    @QUICK
    @given(rows=st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=4))
    def test_scores_are_those_of_torchmetrics(self, rows: list[tuple[str, list[str]]]) -> None:
        from torchmetrics.functional.text import squad

        guesses = [{"prediction_text": guess, "id": str(number)} for number, (guess, _) in enumerate(rows)]
        references = [
            {"answers": {"text": known, "answer_start": [0] * len(known)}, "id": str(number)}
            for number, (_, known) in enumerate(rows)
        ]
        values = reading.answers([guess for guess, _ in rows], [known for _, known in rows])
        expected = {name: score.item() / 100 for name, score in squad(guesses, references).items()}
        assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("guess", "known", "exact", "f1"),
        [
            pytest.param("The Cat!", ["cat"], 1.0, 1.0, id="articles, capitals and punctuation do not count"),
            pytest.param("black cat", ["dog", "a cat"], 0.0, 2 / 3, id="the best reference counts"),
            pytest.param("cat cat", ["cat"], 0.0, 2 / 3, id="a word counts as often as it occurs"),
            pytest.param("", [], 1.0, 1.0, id="no answer, and none is given"),
            pytest.param("cat", [], 0.0, 0.0, id="no answer, but one is given"),
            pytest.param("", ["cat"], 0.0, 0.0, id="an answer, but none is given"),
        ],
    )
    def test_named_cases(self, guess: str, known: list[str], exact: float, f1: float) -> None:
        assert reading.answers([guess], [known]) == pytest.approx({"exact_match": exact, "f1": f1})

    def test_rows_with_and_without_an_answer_are_also_told_apart(self) -> None:
        assert reading.answers(["cat", "cat", "dog"], [["cat"], [], ["a dog"]]) == pytest.approx(
            {
                "exact_match": 2 / 3,
                "f1": 2 / 3,
                "exact_match_answerable": 1.0,
                "f1_answerable": 1.0,
                "exact_match_unanswerable": 0.0,
                "f1_unanswerable": 0.0,
            }
        )


class TestWrittenText:
    @QUICK
    @given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
    def test_scores_are_those_of_rouge_score_and_sacrebleu(self, rows: list[tuple[str, str]]) -> None:
        guesses, references = [guess for guess, _ in rows], [reference for _, reference in rows]
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
        scores = [scorer.score(reference, guess) for guess, reference in rows]
        assert generation.overlap(guesses, references) == pytest.approx(
            {name: sum(score[name].fmeasure for score in scores) / len(rows) for name in scores[0]}
        )
        assert generation.translation(guesses, references) == pytest.approx(
            {
                "bleu": sacrebleu.BLEU().corpus_score(guesses, [references]).score,
                "chrf": sacrebleu.CHRF().corpus_score(guesses, [references]).score,
            }
        )

    def test_what_is_right_gets_the_highest_scores(self) -> None:
        text = ["three late parcels came to the old house today"]
        assert generation.overlap(text, text) == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
        assert generation.translation(text, text) == pytest.approx({"bleu": 100.0, "chrf": 100.0})

    @pytest.mark.parametrize("score", [generation.overlap, generation.translation])
    def test_nothing_of_nothing(self, score: Callable[..., dict[str, float]]) -> None:
        assert score([], []) == {}


class TestPerplexity:
    def test_is_that_of_a_token_not_of_a_row(self) -> None:
        """One long row among short ones, where a mean of rows' means would be off."""
        chances = [[0.5] * 30, [0.1], [0.9, 0.2]]
        surprises = [-sum(map(math.log, row)) for row in chances]
        flat = numpy.concatenate(chances)
        expected = 1 / stats.gmean(flat)
        assert generation.perplexity(surprises, list(map(len, chances))) == pytest.approx({"perplexity": expected})

    @pytest.mark.parametrize(
        ("surprises", "tokens"),
        [
            pytest.param([], [], id="no rows"),
            pytest.param([0.0], [0], id="no tokens"),
            pytest.param([1e6], [1], id="more than a float holds"),
            pytest.param([math.nan], [1], id="no number"),
        ],
    )
    def test_is_left_out_where_it_is_not_finite(self, surprises: list[float], tokens: list[int]) -> None:
        assert generation.perplexity(surprises, tokens) == {}


class TestTranscripts:
    @QUICK
    @given(rows=st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=4))
    def test_rates_are_those_of_jiwer(self, rows: list[tuple[str, str]]) -> None:
        guesses, references = [guess for guess, _ in rows], [reference for _, reference in rows]
        expected = {"wer": jiwer.wer(references, guesses), "cer": jiwer.cer(references, guesses)}
        assert speech.transcripts(guesses, references) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("guesses", "references", "expected"),
        [
            pytest.param(["a  b\n"], ["a b"], {"wer": 0.0, "cer": 0.0}, id="white space does not count"),
            pytest.param(["x", "ab"], ["", "ab"], {"wer": 1.0, "cer": 0.5}, id="a word heard in silence"),
            pytest.param([""], ["ab cd"], {"wer": 1.0, "cer": 1.0}, id="nothing heard"),
            pytest.param(["a b c"], ["x"], {"wer": 3.0, "cer": 5.0}, id="more heard than said"),
            pytest.param(["a", ""], ["", " "], {}, id="nothing said at all"),
            pytest.param([], [], {}, id="no rows"),
        ],
    )
    def test_named_cases(self, guesses: list[str], references: list[str], expected: dict[str, float]) -> None:
        assert speech.transcripts(guesses, references) == pytest.approx(expected)


class TestRetrieval:
    @pytest.mark.parametrize("groups", [pytest.param(30, id="one right answer"), pytest.param(6, id="several")])
    def test_is_what_sorting_all_candidates_finds(self, groups: int) -> None:
        images, texts = draw(30, 4, seed=1) - 0.5, draw(30, 4, seed=2) - 0.5
        texts += images
        same = [f"caption {number % groups}" for number in range(30)]
        expected: dict[str, Any] = {}
        for name, queries, candidates in (("image_to_text", images, texts), ("text_to_image", texts, images)):
            ranks = []
            for query, caption in zip(queries, same, strict=True):
                order = sorted(range(30), key=lambda row: -float(query @ candidates[row]))
                ranks.append(1 + next(place for place, row in enumerate(order) if same[row] == caption))
            expected |= {f"{name}_recall@{k}": sum(rank <= k for rank in ranks) / 30 for k in (1, 5, 10)}
            expected[f"{name}_median_rank"] = float(numpy.median(ranks))
        assert retrieval.retrieval(images, texts, same) == pytest.approx(expected)
        assert 0 < expected["image_to_text_recall@1"] < 1

    @pytest.mark.parametrize("value", [pytest.param(1.0, id="one point"), pytest.param(math.nan, id="NaN")])
    def test_a_model_that_tells_nothing_apart_finds_nothing(self, value: float) -> None:
        same = numpy.full((12, 3), value)
        values = retrieval.retrieval(same, same)
        assert {name: score for name, score in values.items() if "recall" in name} == {
            f"{direction}_recall@{k}": 0.0 for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)
        }

    def test_rows_with_the_same_caption_are_equally_right(self) -> None:
        images = numpy.eye(4)[[0, 0, 1, 2]]
        values = retrieval.retrieval(images, images, ["circle", "circle", "square", "star"])
        assert values == {
            "image_to_text_recall@1": 1.0,
            "image_to_text_median_rank": 1.0,
            "text_to_image_recall@1": 1.0,
            "text_to_image_median_rank": 1.0,
        }

    def test_many_queries_are_ranked_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images, texts = draw(50, 4, seed=1), draw(50, 4, seed=2)
        whole = retrieval.retrieval(images, texts)
        monkeypatch.setattr(retrieval, "CHUNK", 7)
        assert retrieval.retrieval(images, texts) == whole

    def test_no_rows(self) -> None:
        assert retrieval.retrieval(numpy.zeros((0, 3)), numpy.zeros((0, 3))) == {}
