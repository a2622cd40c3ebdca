"""Transcripts: edits for each word and each character that was said."""

from __future__ import annotations

from collections.abc import Sequence


def transcripts(guesses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """wer and cer over the whole corpus, as jiwer counts them; 0 is perfect, and they can be above 1.

    Words are what stands between white space. Words heard in a silent clip (an empty reference) count as errors; where
    nothing was said in any clip there is nothing to divide by, and both are left out.
    """
    import jiwer

    known = [" ".join(reference.split()) for reference in references]
    heard = [" ".join(guess.split()) for guess in guesses]
    if not any(known):
        return {}
    return {"wer": float(jiwer.wer(known, heard)), "cer": float(jiwer.cer(known, heard))}
