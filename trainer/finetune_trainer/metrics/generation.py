"""Written text against one reference a row, and how surely a model says what was written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

ROUGE = ("rouge1", "rouge2", "rougeL")


def overlap(guesses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """rouge1, rouge2, rougeL: mean F-measure of stemmed words. Defined for Latin letters and digits only."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]

    if not guesses:
        return {}
    scorer = RougeScorer(ROUGE, tokenizer=DefaultTokenizer(use_stemmer=True))
    scores = [scorer.score(reference, guess) for guess, reference in zip(guesses, references, strict=True)]
    return {name: float(fmean(score[name].fmeasure for score in scores)) for name in ROUGE}


def translation(guesses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """bleu and chrf of the whole corpus with sacrebleu's defaults, from 0 to 100."""
    import sacrebleu

    if not guesses:
        return {}
    return {
        "bleu": sacrebleu.corpus_bleu(list(guesses), [list(references)]).score,
        "chrf": sacrebleu.corpus_chrf(list(guesses), [list(references)]).score,
    }


def perplexity(surprises: Sequence[float], tokens: Sequence[int]) -> dict[str, float]:
    """perplexity of a token, from each row's summed negative log-likelihood (nats) and its count of tokens.

    It does not depend on how rows were put into batches. Left out without tokens, or above what a float can hold.
    """
    count = sum(tokens)
    mean = math.fsum(surprises) / count if count else math.inf
    try:
        value = math.exp(mean)
    except OverflowError:
        return {}
    return {"perplexity": value} if math.isfinite(value) else {}
