"""A torch program that knows nothing of the operator but its environment: it sorts messages by the mean of their words.

torchrun starts it on every node. It trains a layer over the pre-trained model's vectors of words, tells how far it is,
saves every few steps and when it is told to stop, and goes on where it was after a restart.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import ssl
import sys
import time
import urllib.request
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, distributed, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

RUN = json.loads(Path(os.environ["FINETUNE_RUN_CONFIG"]).read_text())
OUTPUT = Path(os.environ["FINETUNE_OUTPUT_DIR"])
CHECKPOINT = Path(os.environ["FINETUNE_CHECKPOINT_DIR"], "newest.pt")
STEPS = RUN["training"]["maxSteps"]
BATCH = RUN["training"]["trainBatchSize"]
SAVE_EVERY = RUN["checkpoint"].get("everySteps") or 20
TELL_SECONDS = 1.0
TOLD_TO_STOP = 75


class Messages:
    """The messages as lists of tokens, and the numbers of their labels. Every fifth is held out."""

    def __init__(self, table: Path, tokenizer: Path) -> None:
        rows = list(csv.DictReader(table.open(encoding="utf-8")))
        encode = Tokenizer.from_file(str(tokenizer)).encode
        self.tokens = [torch.tensor(encode(row["text"]).ids) for row in rows]
        names = sorted({row["label"] for row in rows})
        self.labels = torch.tensor([names.index(row["label"]) for row in rows])
        self.classes = len(names)
        self.test = list(range(0, len(rows), 5))
        self.train = [row for row in range(len(rows)) if row % 5]

    def of_step(self, step: int, rank: int, world: int) -> list[int]:
        """This process's share of a step's rows, which are the same whenever the step is done."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(step))
        return [self.train[index] for index in order[:BATCH][rank::world]]

    def batch(self, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens one after the other, where each message begins, and labels."""
        tokens = [self.tokens[row] for row in chosen]
        starts = torch.tensor([0, *(len(one) for one in tokens[:-1])]).cumsum(0)
        return torch.cat(tokens), starts, self.labels[chosen]


def in_package(uri: str) -> Path:
    """Where pkg://package/path lies."""
    package, _, path = uri.removeprefix("pkg://").partition("/")
    return Path(str(files(package)), path)


def tell(step: int, **numbers: float) -> None:
    """One POST to the operator. Training does not depend on it."""
    metrics = {"step": step, "total_steps": STEPS, **numbers}
    status = {
        "progressPercentage": 100 * step // STEPS,
        "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items()],
    }
    token = Path(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"]).read_text()
    request = urllib.request.Request(
        os.environ["KUBEFLOW_TRAINER_SERVER_URL"],
        json.dumps({"trainerStatus": status}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    trusted = ssl.create_default_context(cafile=os.environ["KUBEFLOW_TRAINER_SERVER_CA_CERT"])
    try:
        urllib.request.urlopen(request, timeout=5, context=trusted).close()
    except OSError as error:
        print(f"step {step} was not told: {error}", flush=True)


def save(state: dict[str, object]) -> None:
    """Whole or not at all: a program that is killed while it writes leaves the former file."""
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    partial = CHECKPOINT.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(CHECKPOINT)


class StopRequest:
    """SIGTERM on any node is known to all in the same step, so that all leave together."""

    def __init__(self) -> None:
        self.here = 0.0
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.here = 1.0

    def anywhere(self) -> bool:
        flag = torch.tensor(self.here)
        distributed.all_reduce(flag)
        return bool(flag)


@record
def main() -> None:
    stop = StopRequest()
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    model_folder = in_package(RUN["model"]["uri"])
    rows = Messages(in_package(RUN["dataset"]["train"][0]["uri"]), model_folder / "tokenizer.json")
    vectors = load_file(model_folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    words, width = nn.EmbeddingBag.from_pretrained(vectors), vectors.shape[1]
    torch.manual_seed(RUN["training"]["seed"])
    model = DistributedDataParallel(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, rows.classes)))
    optimizer = torch.optim.Adam(model.parameters(), lr=RUN["training"]["learningRate"])
    first = saved = 0
    if CHECKPOINT.exists():
        state = torch.load(CHECKPOINT)
        first = saved = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on after step {first}", flush=True)

    next_told = 0.0
    for step in range(first + 1, STEPS + 1):
        tokens, starts, labels = rows.batch(rows.of_step(step, rank, world))
        loss = cross_entropy(model(words(tokens, starts)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stopping = stop.anywhere()
        if rank == 0 and (stopping or step % SAVE_EVERY == 0):
            save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
            saved = step
        if rank == 0 and time.monotonic() >= next_told:
            steps = {"checkpoint_step": saved, "resumed_from_step": first}
            tell(step, loss=loss.item(), **{name: number for name, number in steps.items() if number})
            next_told = time.monotonic() + TELL_SECONDS
        if stopping:
            sys.exit(TOLD_TO_STOP)

    if rank == 0:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        torch.save(model.module.state_dict(), OUTPUT / "model.pt")
        tokens, starts, labels = rows.batch(rows.test)
        right = model(words(tokens, starts)).argmax(1) == labels
        tell(STEPS, loss=loss.item(), test_accuracy=right.float().mean().item())
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
