"""What the supervisor prepared, kept in a folder for the processes of its node: none of them reads a source again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from finetune_trainer.data.balance import Balance
from finetune_trainer.data.packing import pack, unpack
from finetune_trainer.data.prepare import Data, SourceFacts
from finetune_trainer.data.rows import Rows
from finetune_trainer.data.split import Side
from finetune_trainer.data.table import DiskTable

PREPARED = "prepared"


def keep_data(data: Data, folder: Path) -> None:
    """Leave what `open_data` needs beside the table of the rows, which lies in `folder`."""
    kept = {
        "sides": {side.value: rows.places for side, rows in data.sides.items()},
        "labels": data.labels,
        "sources": [asdict(source) for source in data.sources],
        "reports": data.reports,
        "balance": vars(data.balance),
    }
    (folder / PREPARED).write_bytes(pack(kept))


def open_data(folder: Path) -> Data:
    """The data that were prepared in this folder."""
    kept, table = unpack((folder / PREPARED).read_bytes()), DiskTable(folder)
    return Data(
        {Side(side): Rows(table, places) for side, places in kept["sides"].items()},
        kept["labels"],
        [SourceFacts(**source) for source in kept["sources"]],
        kept["reports"],
        Balance(**kept["balance"]),
    )
