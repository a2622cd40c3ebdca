"""What the end of a log tells: torchrun's root cause, the rank's own words, the last exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.progress import FailureClass
from finetune_operator.core.lastwords import LastWords, last_words
from finetune_operator.core.times import seconds

HELP = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
OWN_LAUNCHER = """\
W1121 20:28:02.259000 48 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 49 closing
Traceback (most recent call last):
  File "/venv/bin/torchrun", line 10, in <module>
    sys.exit(main())
  File "/venv/lib/torch/distributed/launcher/api.py", line 386, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""
RECORDED = """\
Traceback (most recent call last):
    File "/venv/lib/torch/distributed/elastic/multiprocessing/errors/__init__.py", line 384, in wrapper
      result = f(*args, **kwargs)
    File "/app/train.py", line 10, in main
      raise ValueError("labels must be in [0, 3)")
  ValueError: labels must be in [0, 3)
  """


def torchrun(rank: int, code: str, said: str = HELP, other: str = "Signal 15 (SIGTERM) received by PID 49") -> str:
    """What torchrun 2.15 prints as its last words."""
    return f"""{OWN_LAUNCHER}============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-21_20:28:02
  host      : node-7
  rank      : {1 - rank} (local_rank: {1 - rank})
  exitcode  : -15 (pid: 49)  (SIGTERM)
  error_file: <N/A>
  traceback : {other}
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_20:28:01
  host      : node-7
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 50)
  error_file: <N/A>
  traceback : {said}
============================================================
"""


RAISED = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/app/train.py", line 10, in main
[rank1]:     raise ValueError("labels must be in [0, 3)")
[rank1]: ValueError: labels must be in [0, 3)
"""
LOST = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/app/train.py", line 15, in main
[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:32144.
"""
AT = seconds("2026-11-21T20:28:01Z")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        pytest.param(None, LastWords(), id="no log"),
        pytest.param("step 1\nstep 2\n", LastWords(), id="a log without a word about it"),
        pytest.param(
            "Traceback (most recent call last):\n  File \"t.py\", line 1\nKeyError: 'label'\n\nThe above exception was "
            "the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
            "data.loader.BadRowError: row 7 has no label\n",
            LastWords(reason="BadRowError", message="data.loader.BadRowError: row 7 has no label"),
            id="the last exception",
        ),
        pytest.param(
            torchrun(1, "1", RECORDED),
            LastWords(None, "ValueError", "ValueError: labels must be in [0, 3)", None, False, 1, 1, AT),
            id="torchrun, with @record",
        ),
        pytest.param(
            torchrun(1, "1", RECORDED, other="RuntimeError: CUDA out of memory"),
            LastWords(None, "ValueError", "ValueError: labels must be in [0, 3)", None, False, 1, 1, AT),
            id="torchrun: the root cause, not another rank's failure",
        ),
        pytest.param(
            RAISED + LOST + torchrun(1, "1"),
            LastWords(None, "ValueError", "ValueError: labels must be in [0, 3)", None, False, 1, 1, AT),
            id="torchrun without @record: the lines of the rank with the cause",
        ),
        pytest.param(
            "Connection closed by peer [127.0.0.1]:32144. This is typically\n" + torchrun(1, "1"),
            LastWords(None, None, "rank 1 ended with exit code 1", None, False, 1, 1, AT),
            id="torchrun: a lost peer in a line that is cut off is nobody's",
        ),
        pytest.param(
            torchrun(0, "-9", "Signal 9 (SIGKILL) received by PID 50"),
            LastWords(None, None, "rank 0 was ended by SIGKILL with exit code 137", None, False, 0, 137, AT),
            id="torchrun: a rank that was killed",
        ),
    ],
)
def test_last_words(log: str | None, words: LastWords) -> None:
    assert last_words(log) == words


def test_a_rank_that_only_lost_its_peer_is_a_consequence_under_torchrun_too() -> None:
    words = last_words(LOST + torchrun(0, "1"))
    assert (words.class_, words.reason, words.consequence) == (FailureClass.UNAVAILABLE, "PeerLost", True)


def test_a_symptom_in_the_recorded_traceback_has_its_class() -> None:
    recorded = RECORDED.replace("ValueError: labels", "torch.OutOfMemoryError: CUDA out of memory")
    words = last_words(torchrun(1, "1", recorded))
    assert (words.class_, words.rank) == (FailureClass.OUT_OF_MEMORY_GPU, 1)


def test_the_last_two_kilobytes_that_the_kubelet_keeps_are_enough_for_the_rank_and_its_code() -> None:
    log = (RAISED * 40 + torchrun(3, "1"))[-2048:]
    words = last_words(log)
    assert (words.rank, words.exit_code, words.time) == (3, 1, AT)


PARTS = st.sampled_from(
    [
        OWN_LAUNCHER,
        RAISED,
        LOST,
        RECORDED,
        "Root Cause (first observed failure):\n",
        "  time      : 2026-13-45_99:99:99\n",
        "  rank      : 1\n",
        "  rank      : " + "9" * 5000 + "\n",
        "  exitcode  : -999999999 (pid: 5)\n",
        "  traceback : ",
        "\ud83d",
        "\x00",
        "====\n",
        "[rank1]:\n",
    ]
)


@given(st.lists(PARTS | st.text(max_size=40), max_size=12).map("".join))
def test_no_log_is_too_strange_to_read(log: str) -> None:
    words = last_words(log)
    assert words.exit_code is None or words.exit_code >= 0
    assert last_words(log) == words
