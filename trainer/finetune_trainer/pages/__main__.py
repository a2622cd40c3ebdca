"""`finetune report`: makes the page of one run, or compares several; prints the comparison as JSON.

The command draws it for people: this process needs no terminal, and the command none of the trainer's libraries.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_api.progress import ExitCode
from finetune_trainer import files
from finetune_trainer.errors import RunError, Unavailable
from finetune_trainer.pages.comparison import compare, comparison_page
from finetune_trainer.pages.folder import RunFolder, read_run
from finetune_trainer.pages.page import run_page


def main(arguments: Sequence[str]) -> int:
    """Write the page, print the document; returns the exit code."""
    options = _options(arguments)
    try:
        runs = [read_run(folder) for folder in options.runs]
        page = _write(runs, options.output)
    except RunError as error:
        print(f"{error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    print(json.dumps({**compare(runs), "page": page and str(page)}, ensure_ascii=False))
    return ExitCode.DONE


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune report")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def _write(runs: Sequence[RunFolder], output: Path | None) -> Path | None:
    """The page of one run goes into its folder unless `output` says otherwise; that of several only to `output`."""
    path = output or (runs[0].path / files.PAGE if len(runs) == 1 else None)
    if path is None:
        return None
    text = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    try:
        files.write_atomic(path, text, durable=False)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise Unavailable("CannotWrite", message, "name a file in a folder that is there and writable") from error
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
