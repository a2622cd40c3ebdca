"""The words that are most often taken for others, heard where nothing was said, or not heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from finetune_trainer.analysis import short

MOST = 30
"""Lines of each table."""
Edit = tuple[str | None, str | None]
"""A word of the reference and what was said instead; None where one of them has no word."""


def substitutions(edits: Mapping[Edit, int]) -> dict[str, Any]:
    """The most frequent edits as `substitutions`, `insertions` and `deletions`; tables without lines are left out."""
    pairs = sorted(edits.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    tables: dict[str, list[dict[str, Any]]] = {"substitutions": [], "insertions": [], "deletions": []}
    for (known, said), count in pairs:
        if known is None:
            tables["insertions"].append({"word": short(said or ""), "count": count})
        elif said is None:
            tables["deletions"].append({"word": short(known), "count": count})
        else:
            tables["substitutions"].append({"reference": short(known), "said": short(said), "count": count})
    return {name: lines[:MOST] for name, lines in tables.items() if lines}


def edits(guesses: Sequence[str], references: Sequence[str]) -> Counter[Edit]:
    """How jiwer makes the references of the guesses, word by word; words are what stands between white space."""
    import jiwer

    found: Counter[Edit] = Counter()
    known_texts, said_texts = ([" ".join(text.split()) for text in texts] for texts in (references, guesses))
    aligned = jiwer.process_words(known_texts, said_texts)
    for known, heard, chunks in zip(aligned.references, aligned.hypotheses, aligned.alignments, strict=True):
        for chunk in chunks:
            if chunk.type != "equal":
                words = known[chunk.ref_start_idx : chunk.ref_end_idx]
                found.update(zip_longest(words, heard[chunk.hyp_start_idx : chunk.hyp_end_idx]))
    return found
