"""A node that broke two attempts of a run is avoided; one that had bad luck once, or was not to blame, is not."""

import pytest

from finetune_api.progress import FailureClass
from finetune_api.status import MAX_EXCLUDED_NODES, AttemptRecord
from finetune_operator.core.exclusion import MAYBE_THE_NODES, NEVER_THE_NODES, avoided_nodes


def records(*ends: tuple[str | None, str], run: int = 1) -> list[AttemptRecord]:
    return [
        AttemptRecord(run=run, attempt=number, result="Failed", class_=FailureClass(class_), node=node)
        for number, (node, class_) in enumerate(ends, start=1)
    ]


@pytest.mark.parametrize(
    ("history", "avoided"),
    [
        pytest.param([], (), id="nothing yet"),
        pytest.param(records(("a", "HardwareError")), (), id="once is chance"),
        pytest.param(records(("a", "HardwareError"), ("a", "HardwareError")), ("a",), id="twice is not"),
        pytest.param(
            records(("a", "NodeLost"), ("b", "CodeError"), ("a", "Hang")), ("a",), id="other classes, other node"
        ),
        pytest.param(
            records(("a", "Evicted"), ("b", "CodeError"), ("a", "Evicted"), ("b", "CodeError")),
            ("b", "a"),
            id="the one that broke last first",
        ),
        pytest.param(records(("a", "Preempted"), ("a", "Preempted")), (), id="preempted: not the node's fault"),
        pytest.param(records(("a", "PodDeleted"), ("a", "Unavailable")), (), id="deleted, no network"),
        pytest.param(records(("a", "HardwareError"), ("a", "Preempted")), (), id="only one of two to blame"),
        pytest.param(records((None, "CodeError"), (None, "CodeError")), (), id="no node is known"),
        pytest.param(
            records(("a", "CodeError"), run=1) + records(("a", "CodeError"), run=2), (), id="of two runs one each"
        ),
        pytest.param(records(("a", "Hang"), ("a", "Hang"), run=2), (), id="another run's nodes"),
        pytest.param([AttemptRecord(run=1, attempt=1, result="Suspended", node="a")] * 2, (), id="without a class"),
    ],
)
def test_nodes_that_broke_two_attempts_are_avoided(history: list[AttemptRecord], avoided: tuple[str, ...]) -> None:
    assert avoided_nodes(history, 1) == avoided


def test_no_more_nodes_are_avoided_than_the_status_has_room_for() -> None:
    ends = [(f"n{number}", "NodeLost") for number in range(20)]
    nodes = avoided_nodes(records(*ends, *ends), 1)
    assert nodes == tuple(f"n{number}" for number in range(19, 19 - MAX_EXCLUDED_NODES, -1))


def test_each_class_is_decided_one_way() -> None:
    assert not MAYBE_THE_NODES & NEVER_THE_NODES
    assert set(FailureClass) == MAYBE_THE_NODES | NEVER_THE_NODES
