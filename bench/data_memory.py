"""How much memory and time many rows cost: `python bench/data_memory.py 1000000`.

Writes that many short texts as JSON Lines to a temporary folder (TMPDIR), reads, checks, splits and profiles them as
the supervisor does, and encodes and orders them as a rank does, each in a process of its own. Nothing stays behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
WORDS = "good bad film story plot actor dull bright slow fast long short warm cold happy sad the a it was"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("--part", choices=["supervisor", "rank"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.part is not None:
        measure(options.part, options.folder)
        return
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        run(options.rows, Path(folder))


def run(rows: int, folder: Path) -> None:
    """Both parts one after the other, then a second rank, which finds everything encoded."""
    write(rows, folder)
    environment = os.environ | {"FINETUNE_CACHE": str(folder / "cache")}
    for part in ("supervisor", "rank", "rank"):
        command = [sys.executable, __file__, str(rows), "--part", part, "--folder", str(folder)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        print(f"{rows} rows, {part}: {done.stdout.splitlines()[-1]}", flush=True)
    for name in ("rows", "cache"):
        size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        print(f"{rows} rows, {name} on disk: {size / 2**20:.0f} MiB")


def write(rows: int, folder: Path) -> None:
    from support.models import save_model
    from support.runs import a_run

    draw = random.Random(1)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            text = f"{number} " + " ".join(draw.choices(WORDS.split(), k=12))
            file.write(json.dumps({"text": text, "label": ("good", "bad")[number % 2]}) + "\n")
    save_model(folder / "model", "bert")
    data, model = (folder / "rows.jsonl").as_uri(), (folder / "model").as_uri()
    a_run(folder, data, model, trainBatchSize=256, numTrainEpochs=1).write()


def measure(part: str, folder: Path) -> None:
    started = time.monotonic()
    {"supervisor": supervisor, "rank": rank}[part](folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime
    print(f"{time.monotonic() - started:.0f} s ({seconds:.0f} s of processor), at most {peak()} MiB of memory")


def peak() -> int:
    """Most MiB that this program had in memory; what getrusage says counts its parent, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 2**10


def supervisor(folder: Path) -> None:
    from finetune_trainer import handover
    from finetune_trainer.preflight import check_inputs, load_run_config

    facts = check_inputs(load_run_config(folder / "config.json"), None, folder / handover.ROWS)
    handover.write_facts(folder, facts)


def rank(folder: Path) -> None:
    from finetune_trainer import handover
    from finetune_trainer.data.examples import sizes_of
    from finetune_trainer.data.sampler import Sampler, micro_batches
    from finetune_trainer.data.split import Side
    from finetune_trainer.encoding import encode_side
    from finetune_trainer.preflight import load_run_config
    from finetune_trainer.training.build import TASKS, open_data
    from finetune_trainer.training.evaluate import evaluation_batches

    config, facts = load_run_config(folder / "config.json"), handover.read_facts(folder)
    data = open_data(folder / handover.ROWS)
    task = TASKS[config.task].load(facts.folder, data.labels, config)
    examples = {side: encode_side(task, data.sides[side], side, facts) for side in Side}
    evaluation_batches(task, examples[Side.VALIDATION])
    train, sizes = data.sides[Side.TRAIN], sizes_of(task, examples[Side.TRAIN])
    sampler = Sampler(len(train), config.training.train_batch_size, config.training.seed, train.weights)
    for step in range(sampler.steps_per_epoch):
        for batch in micro_batches(sampler.indices(step), sizes, 64):
            _ = [examples[Side.TRAIN][index] for index in batch]


if __name__ == "__main__":
    main()
