"""The trainer's benchmark compares like with like, and its figures follow from what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import pytest
from benchmarks.trainer import figures, sides, table
from benchmarks.trainer.words import Writer, vocabulary
from benchmarks.trainer.workloads import WORKLOADS, part_of, quick, read_workload, tell_workload

ROOT = Path(__file__).parents[2]


def measured(seconds: float, **changes: Any) -> dict[str, Any]:
    """What a side says of one run: ten steps of 32 rows."""
    plain = {
        "seconds": seconds,
        "processor_seconds": 2 * seconds,
        "wall_seconds": seconds + 9,
        "peak_mib": 1000.0,
        "device_mib": 0.0,
        "steps": 10,
        "rows": 320,
        "tokens": 4000,
        "computed": 9000,
        "data_wait_seconds": None,
        "losses": [[step, 2.0 - step / 10] for step in range(1, 11)],
    }
    return plain | changes


def test_a_ratio_is_that_of_a_round_and_the_middle_one_is_reported_with_the_extremes() -> None:
    own = [measured(10.0, data_wait_seconds=0.1), measured(20.0, data_wait_seconds=0.1), measured(10.0)]
    peer = [measured(20.0), measured(30.0, peak_mib=2000.0), measured(12.0)]

    found = figures.figures("short", {"ours": own, "trainer": peer, "facts": {}}, "fp32")

    assert found["trainer"] == {
        "seconds": 20.0,
        "wall_seconds": 29.0,
        "peak_mib": 1000.0,
        "device_mib": 0.0,
        "tokens_per_second": 200.0,
        "steps": 10,
        "rows": 320,
        "tokens": 4000,
        "computed": 9000,
        "curve": pytest.approx([1.85, 1.65, 1.45, 1.25, 1.05]),
        "last_loss": pytest.approx(1.05),
        "ratio": 1.5,
        "ratio_range": [1.2, 2.0],
        "processor_ratio": 1.5,
        "target": 1.5,
        "memory_ratio": 1.0,
        "same_work": True,
    }
    assert found["ours"]["data_wait_share"] == pytest.approx(0.0075)


def test_ours_in_the_precision_of_its_choice_is_compared_with_the_default_of_transformers() -> None:
    sides = {"ours": [measured(10.0)], "ours-auto": [measured(5.0, peak_mib=900.0)], "trainer": [measured(15.0)]}

    found = figures.figures("pairs", {**sides, "facts": {}}, "fp32")["ours-auto"]

    assert {name: found[name] for name in ("seconds", "ratio", "target", "memory_ratio")} == {
        "seconds": 5.0,
        "ratio": 3.0,
        "target": 2.0,
        "memory_ratio": 0.9,
    }


@pytest.mark.parametrize(
    ("side", "changes", "same"),
    [
        ("trainer", {}, True),
        ("trainer", {"tokens": 3999}, False),
        ("trainer", {"rows": 319}, False),
        ("trainer", {"steps": 11}, False),
        ("trainer-grouped", {"steps": 11}, True),
        ("trainer-grouped", {"tokens": 3999}, False),
    ],
)
def test_sides_that_did_other_work_are_told(side: str, changes: dict[str, Any], same: bool) -> None:
    found = figures.figures("short", {"ours": [measured(1.0)], side: [measured(2.0, **changes)], "facts": {}}, "fp32")

    assert found[side]["same_work"] is same


def test_the_share_of_the_devices_peak_is_that_of_the_operations_in_the_seconds() -> None:
    facts = {"flops": 4e12, "peak_flops": 1e12}

    found = figures.figures("chat-1b", {"ours": [measured(10.0)], "trl": [measured(20.0)], "facts": facts}, "bf16")

    assert {side: line["mfu"] for side, line in found.items()} == {"ours": 0.4, "trl": 0.2}


def test_a_side_that_failed_stands_in_the_table_and_the_others_have_their_figures() -> None:
    found = {"ours": [measured(10.0)], "trainer": [measured(15.0)], "trl": [{"error": "no such module"}], "facts": {}}
    document = {
        "date": "2026-11-22",
        "precision": "fp32",
        "rounds": 1,
        "machine": {"threads": 2, "processor": "a processor"},
        "versions": {"torch": "2.15.0"},
        "workloads": {"chat": {"figures": figures.figures("chat", found, "fp32")}},
    }

    lines = [line for line in table.markdown(document).splitlines() if line.startswith("| chat")]

    assert lines == [
        "| chat | ours | 10.0 | 1 |  |  |  | 1000 MiB | 400 | 19.0 | 1.0500 |  |",
        "| chat | trainer | 15.0 | **1.50** | 1.50 to 1.50 | 1.3 | 1.50 | 1.00 | 267 | 24.0 | 1.0500 | yes |",
        "| chat | trl | failed |  |  |  |  |  |  |  |  |  |",
    ]


def test_texts_have_the_lengths_that_they_are_said_to_have() -> None:
    for workload in WORKLOADS.values():
        wanted = workload.lengths
        drawn = wanted.draw(4000, numpy.random.default_rng(0))
        assert wanted.least <= min(drawn) <= max(drawn) <= wanted.most
        assert fmean(drawn) == pytest.approx(wanted.mean, rel=0.15), workload.name


def test_the_same_seed_writes_the_same_texts_and_a_label_shows_in_them() -> None:
    words = vocabulary(600)

    first, again = (Writer(words, seed=3).text(200, label=1) for _ in range(2))

    assert first == again
    assert len(set(words)) == 600
    assert len(set(first) & set(words[340:380])) > 10


def test_a_workload_is_read_as_it_was_told(tmp_path: Path) -> None:
    for workload in (*WORKLOADS.values(), *map(quick, WORKLOADS.values())):
        tell_workload(workload, "bf16", 1, tmp_path)
        assert read_workload(tmp_path) == (workload, "bf16", 1)
        assert workload.rows % workload.batch == 0


def test_a_part_of_a_workload_has_whole_steps() -> None:
    short = WORKLOADS["short"]

    assert part_of(short, 0.1) == replace(short, rows=160)
    assert part_of(short, 0.001) == replace(short, rows=32)


def test_every_workload_is_compared_with_transformers_and_texts_to_write_with_trl() -> None:
    found = {name: sides.sides_of(workload) for name, workload in WORKLOADS.items()}

    assert all({"ours", "trainer"} <= set(names) for names in found.values())
    assert [name for name, names in found.items() if "ours-auto" not in names] == ["chat-1b"]
    assert [name for name, names in found.items() if "trl" in names] == ["chat", "lora", "chat-1b"]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.trainer", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    workload, side = benchmark("--workloads", "shrt"), benchmark("--workloads", "short", "--sides", "tainer")

    assert (workload.returncode, side.returncode) == (1, 1)
    assert workload.stderr.startswith("no workload shrt; there are short, pairs,")
    assert side.stderr.startswith("no side tainer; there are ours, ours-auto, trainer,")


@pytest.mark.torch
@pytest.mark.timeout(1500)
def test_both_sides_begin_with_the_same_loss_and_do_the_same_steps_on_the_same_tokens(tmp_path: Path) -> None:
    """The real harness: our supervisor and rank, and transformers.Trainer, each in a process of its own."""
    result = tmp_path / "result.json"

    done = benchmark(
        *("--quick", "--workloads", "short,chat", "--sides", "trainer"),
        *("--rounds", "1", "--passive", "--output", str(result)),
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(result.read_text())
    assert set(document["workloads"]) == {"short", "chat"}
    for name, known in document["workloads"].items():
        own, peer = (known["measurements"][side][0] for side in ("ours", "trainer"))
        work = {field: own[field] for field in ("steps", "rows", "tokens")}
        assert work == {field: peer[field] for field in work}
        assert own["steps"] == len(own["losses"]) == len(peer["losses"]) == quick(WORKLOADS[name]).steps
        assert own["losses"][0][1] == pytest.approx(peer["losses"][0][1], abs=1e-4)
        assert [loss for _, loss in own["losses"]] == pytest.approx([loss for _, loss in peer["losses"]], abs=1e-2)
        assert min(own["seconds"], peer["seconds"], own["peak_mib"], peer["peak_mib"]) > 0
        assert known["figures"]["trainer"]["same_work"]
    assert [line.split(" | ")[:2] for line in done.stdout.splitlines() if line.startswith(("| short", "| chat"))] == [
        ["| short", "ours"],
        ["| short", "trainer"],
        ["| chat", "ours"],
        ["| chat", "trainer"],
    ]
