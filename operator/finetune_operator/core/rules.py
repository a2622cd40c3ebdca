"""spec.runPolicy.rules: which of them fits a failure, and what is wrong with their patterns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_api.manifest import Problem
from finetune_api.policy import FaultRule
from finetune_api.progress import Failure
from finetune_operator.core.patterns import InvalidPattern, compiled, search


def matching_rule(rules: Sequence[FaultRule], failure: Failure) -> FaultRule | None:
    """The first rule that fits: each condition that it gives holds by any of its values; one without any fits all."""
    return next((rule for rule in rules if _fits(rule, failure)), None)


def problems_of_rules(rules: Sequence[FaultRule], place: str) -> list[Problem]:
    """Patterns that are no regular expressions of RE2; `place` is the field of the rules."""
    return [problem for number, rule in enumerate(rules) for problem in _problems(rule, f"{place}[{number}]")]


def _fits(rule: FaultRule, failure: Failure) -> bool:
    text = "\n".join([failure.message, failure.log_tail or ""])
    return (
        (not rule.on_exit_codes or failure.exit_code in rule.on_exit_codes)
        and (not rule.on_reasons or not {failure.class_, failure.reason}.isdisjoint(rule.on_reasons))
        and (not rule.on_log_patterns or any(_found(pattern, text) for pattern in rule.on_log_patterns))
    )


def _found(pattern: str, text: str) -> bool:
    """A pattern that is none finds nothing: the run began before a person wrote it."""
    try:
        return search(pattern, text) is not None
    except InvalidPattern:
        return False


def _problems(rule: FaultRule, place: str) -> Iterator[Problem]:
    for number, pattern in enumerate(rule.on_log_patterns):
        try:
            compiled(pattern)
        except InvalidPattern as error:
            yield Problem(
                f"{place}.onLogPatterns[{number}]",
                f"{pattern!r} is no regular expression of RE2: {error}",
                "write it in RE2's syntax, which has no look-ahead and no back-references",
            )
