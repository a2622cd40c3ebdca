"""Rules for faults: the first that fits, by exit code, class or reason, and words of the log."""

from typing import Any

import pytest

from finetune_api.manifest import Problem
from finetune_api.policy import FaultRule
from finetune_api.progress import Failure, FailureClass
from finetune_operator.core.rules import matching_rule, problems_of_rules

FAILURE = Failure(
    class_=FailureClass.CODE_ERROR,
    reason="RuntimeError",
    message="pod p: RuntimeError: NaN loss at step 12",
    exit_code=3,
    log_tail="step 11\nstep 12 loss nan\n",
)


def rule(name: str = "rule", action: str = "Restart", **conditions: Any) -> FaultRule:
    return FaultRule.model_validate({"name": name, "action": action, **conditions})


@pytest.mark.parametrize(
    ("conditions", "fits"),
    [
        pytest.param({"onExitCodes": [2, 3]}, True, id="one of the exit codes"),
        pytest.param({"onExitCodes": [2]}, False, id="another exit code"),
        pytest.param({"onReasons": ["CodeError"]}, True, id="the class"),
        pytest.param({"onReasons": ["Hang", "RuntimeError"]}, True, id="the reason"),
        pytest.param({"onReasons": ["runtimeerror"]}, False, id="a reason is a name, with its capitals"),
        pytest.param({"onLogPatterns": ["NaN loss at step [0-9]+"]}, True, id="words of the message"),
        pytest.param({"onLogPatterns": ["absent", "(?m)^step 12 .* nan$"]}, True, id="words of the log"),
        pytest.param({"onLogPatterns": ["segfault"]}, False, id="words that are nowhere"),
        pytest.param({"onExitCodes": [3], "onReasons": ["Hang"]}, False, id="each condition must hold"),
        pytest.param({"onExitCodes": [3], "onLogPatterns": ["nan"]}, True, id="both hold"),
        pytest.param({"onLogPatterns": ["("]}, False, id="a pattern written since the run began that is none"),
        pytest.param({}, True, id="no condition: every fault"),
    ],
)
def test_a_rule_fits_where_each_of_its_conditions_holds(conditions: dict[str, Any], fits: bool) -> None:
    chosen = rule(**conditions)
    assert matching_rule([chosen], FAILURE) == (chosen if fits else None)


def test_the_first_rule_that_fits_counts() -> None:
    rules = [rule("a", onExitCodes=[9]), rule("b", "Fail", onReasons=["CodeError"]), rule("c", "ExcludeNode")]
    assert matching_rule(rules, FAILURE) == rules[1]


def test_a_failure_without_exit_code_and_log_is_compared_by_what_it_has() -> None:
    lost = Failure(class_=FailureClass.NODE_LOST, reason="NodeLost", message="the pod's node is silent")
    by_code, by_words = rule("code", onExitCodes=[3]), rule("words", onLogPatterns=["silent$", "silent\n"])
    assert matching_rule([by_code, by_words], lost) == by_words


def test_a_pattern_that_stalls_other_engines_is_answered_at_once() -> None:
    slow = Failure(class_=FailureClass.CODE_ERROR, reason="x", message="a" * 2000, log_tail="a" * 8000)
    assert matching_rule([rule(onLogPatterns=["(a*)*(a*)*b$"])], slow) is None


def test_a_bad_pattern_is_named_by_its_field() -> None:
    rules = [rule(onLogPatterns=["fine"]), rule(onLogPatterns=["fine", "(?=later)"])]
    assert problems_of_rules(rules, "spec.runPolicy.rules") == [
        Problem(
            "spec.runPolicy.rules[1].onLogPatterns[1]",
            "'(?=later)' is no regular expression of RE2: invalid perl operator: (?=",
            "write it in RE2's syntax, which has no look-ahead and no back-references",
        )
    ]


def test_good_patterns_have_no_problems() -> None:
    assert problems_of_rules([rule(onLogPatterns=[r"(?i)\bnan\b", "[a-z]{1,100}"])], "rules") == []
