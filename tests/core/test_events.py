"""Events of the cluster become troubles: the newest word on each object, and none where it is over."""

from typing import Any

import pytest

from finetune_operator.core.events import Trouble, TroubleKind, troubles


def event(reason: str, message: str = "", at: str = "2026-11-21T10:00:00Z", name: str = "pod-0", **more: Any) -> Any:
    kind = "Job" if reason in ("FailedCreate", "SuccessfulCreate") else "Pod"
    return {
        "metadata": {"name": f"{name}.{reason}"},
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
        **more,
    }


LATER = "2026-11-21T10:00:07Z"
QUOTA = 'pods "reviews-0-x1" is forbidden: exceeded quota: gpus, requested: pods=1, used: pods=4, limited: pods=4'


@pytest.mark.parametrize(
    ("seen", "trouble"),
    [
        pytest.param(
            event("FailedCreate", f"Error creating: {QUOTA}", name="job"),
            Trouble(TroubleKind.REFUSED, "FailedCreate", QUOTA, "job"),
            id="the Job controller",
        ),
        pytest.param(
            event("FailedCreate", f"(combined from similar events): Error creating: {QUOTA}", name="job"),
            Trouble(TroubleKind.REFUSED, "FailedCreate", QUOTA, "job"),
            id="many of the same",
        ),
        pytest.param(
            event("FailedScheduling", "0/3 nodes are available"),
            Trouble(TroubleKind.PLACE, "FailedScheduling", "0/3 nodes are available", "pod-0"),
            id="the scheduler",
        ),
        pytest.param(
            event("FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "s" not found'),
            Trouble(
                TroubleKind.MOUNT,
                "FailedMount",
                'MountVolume.SetUp failed for volume "v" : secret "s" not found',
                "pod-0",
            ),
            id="a volume",
        ),
        pytest.param(
            event("FailedAttachVolume", "Multi-Attach error"),
            Trouble(TroubleKind.MOUNT, "FailedAttachVolume", "Multi-Attach error", "pod-0"),
            id="a volume's attachment",
        ),
        pytest.param(
            event("Failed", 'Failed to pull image "x:1": not found'),
            Trouble(TroubleKind.IMAGE, "Failed", 'Failed to pull image "x:1": not found', "pod-0"),
            id="an image",
        ),
        pytest.param(
            event("FailedCreatePodSandBox", "no network"),
            Trouble(TroubleKind.NODE, "FailedCreatePodSandBox", "no network", "pod-0"),
            id="the node's network",
        ),
    ],
)
def test_an_event_is_a_trouble(seen: Any, trouble: Trouble) -> None:
    assert troubles([seen]) == (trouble,)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(event("Failed", "Error: ErrImagePull"), id="one that names no cause"),
        pytest.param(event("BackOff", "Back-off pulling image"), id="one that only waits"),
        pytest.param(event("Scheduled"), id="good news"),
    ],
)
def test_other_events_are_none(seen: Any) -> None:
    assert troubles([seen]) == ()


@pytest.mark.parametrize("order", [1, -1], ids=["as they came", "the other way round"])
@pytest.mark.parametrize(
    ("events", "messages"),
    [
        pytest.param(
            [event("FailedMount", "old"), event("FailedMount", "new", LATER)], ["new"], id="the newest of an object"
        ),
        pytest.param(
            [event("FailedMount", "b", name="pod-1"), event("FailedMount", "a")],
            ["a", "b"],
            id="each object has its own",
        ),
        pytest.param(
            [event("FailedMount", "volume"), event("FailedScheduling", "place")],
            ["volume", "place"],
            id="each kind, too",
        ),
        pytest.param(
            [event("FailedCreate", "no"), event("SuccessfulCreate", at=LATER)], [], id="pods were created since"
        ),
        pytest.param(
            [event("SuccessfulCreate"), event("FailedCreate", "no", LATER)], ["no"], id="only some pods were created"
        ),
        pytest.param(
            [event("FailedCreate", "no"), event("SuccessfulCreate")], ["no"], id="of the same second the trouble counts"
        ),
        pytest.param([event("FailedMount", "no"), event("Pulled", at=LATER)], [], id="mounted since"),
        pytest.param([event("FailedScheduling", "no"), event("Scheduled", at=LATER)], [], id="placed since"),
        pytest.param(
            [
                event(
                    "FailedScheduling",
                    "repeated",
                    lastTimestamp=None,
                    eventTime="2026-11-21T09:00:00.250000Z",
                    series={"count": 9, "lastObservedTime": "2026-11-21T10:00:09.500000Z"},
                ),
                event("FailedScheduling", "once", LATER),
            ],
            ["repeated"],
            id="the scheduler's own way to tell a time",
        ),
    ],
)
def test_the_newest_word_counts(events: list[Any], messages: list[str], order: int) -> None:
    assert [trouble.message for trouble in troubles(events[::order])] == messages
