"""`finetune predict`: what a run's model says of new rows, one JSON object a line.

The rows are read as in training, but need not have the target; the model is the one that the run saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finetune_api.dataset import Source
from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer import files, handover
from finetune_trainer.data.clean import input_cleaner
from finetune_trainer.data.clean.texts import CONTEXT
from finetune_trainer.data.columns import Where
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import load_source
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.log import quiet_libraries
from finetune_trainer.methods import virtual_tokens
from finetune_trainer.record import read_record
from finetune_trainer.tasks import TASKS

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import TaskKind

GIVEN = "the command line"


def main(arguments: Sequence[str]) -> int:
    """Print the predictions, or write them to a file; returns the exit code."""
    options = _options(arguments)
    try:
        config, labels = _read_run(options.run)
        rows = _given(options.input, config) if options.input else _read_rows(options.file, config)
        read = cleaned(rows, config)
        answers = predict(options.run / files.MODEL, read, labels, config)
        _write(numbered(rows, read, answers), options.output)
    except RunError as error:
        print(f"{error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return ExitCode.DONE


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune predict")
    parser.add_argument("run", type=Path)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def _read_run(folder: Path) -> tuple[RunConfig, list[str]]:
    record = read_record(folder)
    if record is None or not (folder / files.MODEL).is_dir():
        message = f"{folder} holds no finished run: it has no {files.RECORD} or no {files.MODEL}/"
        raise ConfigError("NotARun", message, "name the folder that `finetune run` or a FineTuneJob left")
    return RunConfig.model_validate(record["config"]), record["data"]["labels"]


def _read_rows(file: str, config: RunConfig) -> list[Row]:
    """Rows of a file on this machine, or of any URI that a manifest may name."""
    uri = file if "://" in file else Path(file).absolute().as_uri()
    roles = TASKS[config.task].roles
    source = Source(uri=uri)
    return load_source(source, roles, config.dataset.columns, Places(), "FILE", predicting=True).rows


def _given(inputs: Sequence[str], config: RunConfig) -> list[Row]:
    """One row, of `role=value` arguments."""
    values = dict(_split(item) for item in inputs)
    roles = TASKS[config.task].roles
    found = roles.resolve({}, list(values), GIVEN, predicting=True)
    where = {role: Where(GIVEN, role, role, Path.cwd()) for role in found}
    return [Row({role: roles.kinds[role](values[role], where[role]) for role in found}, GIVEN, 1)]


def _split(item: str) -> tuple[str, str]:
    role, separator, value = item.partition("=")
    if not separator:
        raise ConfigError("NoValue", f"--input {item} has no value", "write --input role=value")
    return role, value


def cleaned(rows: Sequence[Row], config: RunConfig) -> list[Row]:
    """The rows as training had them; none is dropped."""
    cleaner = input_cleaner(config)
    return [cleaner.row(row) or row for row in rows]


def predict(folder: Path, rows: Sequence[Row], labels: Sequence[str], config: RunConfig) -> list[dict[str, Any]]:
    """What the model in `folder` says of each row."""
    import torch

    from finetune_trainer.training.evaluate import evaluation_batches

    base = folder / virtual_tokens.BASE
    task: TaskKind = TASKS[config.task].saved(base if base.is_dir() else folder, labels, config)
    loaded, _ = task.load_model()
    model = virtual_tokens.load(loaded, folder) if base.is_dir() else cast("torch.nn.Module", loaded)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.eval(model)
    examples, _ = task.encode(rows)
    answers: dict[int, dict[str, Any]] = {}
    with torch.no_grad():
        for batch in evaluation_batches(task, examples):
            answers |= zip(batch, task.answer(model, [examples[index] for index in batch]), strict=True)
    return [answers[index] for index in range(len(rows))]


def numbered(given: Sequence[Row], read: Sequence[Row], answers: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Each answer with its row's number; and with the context that its `start` counts in, where cleaning changed it."""
    for row, cleaner, answer in zip(given, read, answers, strict=True):
        context = cleaner.values.get(CONTEXT)
        yield {"row": row.number, **answer, **({} if context == row.values.get(CONTEXT) else {CONTEXT: context})}


def _write(answers: Iterable[dict[str, Any]], output: Path | None) -> None:
    lines = "".join(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers)
    if output is None:
        print(lines, end="")
    else:
        files.write_atomic(output, lines)


if __name__ == "__main__":
    os.environ.update(handover.quiet_environment(os.environ))
    quiet_libraries()
    sys.exit(main(sys.argv[1:]))
