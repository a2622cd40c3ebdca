"""Errors by kind: numbers that are off, entities, spans and words that went wrong."""

from __future__ import annotations

import warnings
from collections import Counter
from itertools import pairwise
from typing import Any

import jiwer
import numpy
import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.analysis.entities import entity_errors
from finetune_trainer.analysis.residuals import MOST_POINTS, residuals
from finetune_trainer.analysis.spans import Span, spans
from finetune_trainer.analysis.substitutions import MOST, edits, substitutions
from finetune_trainer.metrics import entities, reading

QUICK = settings(max_examples=60, deadline=None)


class TestResiduals:
    def test_named_case(self) -> None:
        found = residuals(numpy.array([1.0, 2.0, 3.0]), numpy.array([2.0, 2.0, 5.0]))
        assert found == {
            "bias": 1.0,
            "histogram": [
                {"from": 0.0, "to": 0.666667, "rows": 1},
                {"from": 0.666667, "to": 1.33333, "rows": 1},
                {"from": 1.33333, "to": 2.0, "rows": 1},
            ],
            "points": [
                {"truth": 1.0, "prediction": 2.0},
                {"truth": 2.0, "prediction": 2.0},
                {"truth": 3.0, "prediction": 5.0},
            ],
        }

    def test_of_many_rows_some_are_points_and_all_are_counted(self) -> None:
        draws = numpy.random.default_rng(0)
        truth = draws.random(5000) * 100
        found = residuals(truth, truth + draws.standard_normal(5000) - 3)
        assert found["bias"] == pytest.approx(-3, abs=0.1)
        assert sum(line["rows"] for line in found["histogram"]) == 5000
        assert len(found["points"]) == MOST_POINTS
        assert (found["points"][0]["truth"], found["points"][-1]["truth"]) == pytest.approx(
            (truth[0], truth[-1]), rel=1e-5
        )
        assert all(one["to"] == other["from"] for one, other in pairwise(found["histogram"]))

    def test_a_guess_that_is_no_number_is_left_out(self) -> None:
        found = residuals(numpy.array([1.0, 2.0, 3.0]), numpy.array([numpy.nan, 2.5, numpy.inf]))
        assert (found["bias"], found["points"]) == (0.5, [{"truth": 2.0, "prediction": 2.5}])
        assert residuals(numpy.array([1.0]), numpy.array([numpy.nan])) == {}


NONE = {"missed": 0, "spurious": 0, "wrongType": 0, "wrongBoundary": 0}


class TestEntities:
    @pytest.mark.parametrize(
        ("truth", "guess", "expected"),
        [
            pytest.param("B-PER I-PER O", "B-PER I-PER O", {}, id="right"),
            pytest.param("B-PER O O", "O O O", {"missed": 1}, id="missed"),
            pytest.param("O O O", "O B-PER O", {"spurious": 1}, id="spurious"),
            pytest.param("B-PER I-PER O", "B-LOC I-LOC O", {"wrongType": 1}, id="another type"),
            pytest.param("B-PER I-PER O", "B-PER O O", {"wrongBoundary": 1}, id="cut short"),
            pytest.param("B-PER O O", "B-PER I-PER O", {"wrongBoundary": 1}, id="too long"),
            pytest.param("B-PER I-PER O", "B-LOC O O", {"wrongType": 1}, id="another type and other words"),
            pytest.param("B-PER O B-PER", "O B-PER O", {"missed": 2, "spurious": 1}, id="beside each other"),
            pytest.param("B-PER I-PER I-PER", "B-PER O B-PER", {"wrongBoundary": 1, "spurious": 1}, id="in two"),
            pytest.param(
                "B-PER O B-LOC", "B-PER I-PER I-PER", {"wrongBoundary": 1, "missed": 1}, id="the type decides"
            ),
        ],
    )
    def test_kinds_of_errors(self, truth: str, guess: str, expected: dict[str, int]) -> None:
        assert entity_errors([truth.split()], [guess.split()])["errors"] == NONE | expected

    @QUICK
    @given(data=st.data())
    def test_types_are_those_of_seqeval_and_every_error_is_counted_once(self, data: st.DataObject) -> None:
        tag = st.sampled_from(["O", "B-A", "I-A", "B-B-1", "I-B-1"])
        truth = data.draw(st.lists(st.lists(tag, min_size=1, max_size=8), min_size=1, max_size=3))
        guess = [data.draw(st.permutations(row)) for row in truth]
        found = entity_errors(truth, guess)
        with warnings.catch_warnings(action="ignore"):
            report = seqeval.metrics.classification_report(truth, guess, output_dict=True, zero_division=0)
        lines = [
            {
                "type": type_,
                "precision": round(float(row["precision"]), 4),
                "recall": round(float(row["recall"]), 4),
                "f1": round(float(row["f1-score"]), 4),
                "support": row["support"],
            }
            for type_, row in report.items()
            if not type_.endswith(" avg")
        ]
        assert found["perType"] == sorted(lines, key=lambda line: (-line["support"], line["type"]))
        wanted, said, errors = set(entities.entities(truth)), set(entities.entities(guess)), found["errors"]
        paired = errors["wrongType"] + errors["wrongBoundary"]
        assert errors["missed"] + paired == len(wanted - said)
        assert errors["spurious"] + paired == len(said - wanted)


NOTHING = {"exact": 0, "overlapping": 0, "disjoint": 0, "missed": 0, "spurious": 0}


class TestSpans:
    @pytest.mark.parametrize(
        ("guess", "known", "expected"),
        [
            pytest.param(("Paris", 10), [("Paris", 10)], "exact", id="the same"),
            pytest.param(("the Paris", 6), [("Paris", 10)], "exact", id="articles do not count"),
            pytest.param(None, [], "exact", id="rightly none"),
            pytest.param(("in Paris", 7), [("Paris", 10)], "overlapping", id="too long"),
            pytest.param(("Rome", 0), [("Paris", 10), ("old Rome", 0)], "overlapping", id="any reference counts"),
            pytest.param(("Rome", 6), [("Paris", 10)], "disjoint", id="one ends where the other begins"),
            pytest.param(None, [("Paris", 10)], "missed", id="missed"),
            pytest.param(("Rome", 6), [], "spurious", id="spurious"),
        ],
    )
    def test_kinds(self, guess: Span | None, known: list[Span], expected: str) -> None:
        assert spans([guess], [known]) == NOTHING | {expected: 1}

    def test_exact_is_what_exact_match_counts(self) -> None:
        guesses: list[Span | None] = [("Paris", 10), None, None, ("an old  town", 3), ("town", 7)]
        known: list[list[Span]] = [[("Paris", 10)], [], [("x", 0)], [("old town", 6)], [("old town", 3)]]
        texts = [[text for text, _ in some] for some in known]
        share = reading.answers([guess[0] if guess else "" for guess in guesses], texts)["exact_match"]
        assert spans(guesses, known)["exact"] == share * len(guesses)


WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat"]), max_size=6).map(" ".join)


class TestSubstitutions:
    def test_named_case(self) -> None:
        found = edits(["the bat sat", "the bat", "on on"], ["the cat sat  down", "the cat", "on"])
        assert substitutions(found) == {
            "substitutions": [{"reference": "cat", "said": "bat", "count": 2}],
            "insertions": [{"word": "on", "count": 1}],
            "deletions": [{"word": "down", "count": 1}],
        }

    @QUICK
    @given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
    def test_edits_are_as_many_as_jiwer_counts(self, rows: list[tuple[str, str]]) -> None:
        guesses, references = [guess for guess, _ in rows], [reference for _, reference in rows]
        output = jiwer.process_words(references, guesses)
        found: Counter[str] = Counter()
        for (known, said), count in edits(guesses, references).items():
            found["inserted" if known is None else "deleted" if said is None else "substituted"] += count
        expected = {"substituted": output.substitutions, "inserted": output.insertions, "deleted": output.deletions}
        assert {name: found[name] for name in expected} == expected

    def test_the_most_frequent_stay_and_nothing_is_left_out_of_nothing(self) -> None:
        many: dict[Any, int] = {(f"a{number:03}", "b"): 1 for number in range(100)} | {("often", "b"): 5}
        found = substitutions(many)["substitutions"]
        assert (len(found), found[0]["reference"], found[1]["reference"]) == (MOST, "often", "a000")
        assert substitutions(edits(["same"], ["same"])) == {}
        assert edits([""], [""]) == Counter()
