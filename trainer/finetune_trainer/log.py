"""The log: short lines on stdout for people, the last of them kept for the failure's tail."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import deque

FORMAT = "%(asctime)s %(message)s"
TAIL_LINES = 30
MAX_LINE = 256
NOISY = (
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "torch",
    "httpx",
    "httpx2",
    "datasets",
    "huggingface_hub",
    "filelock",
    "mlflow",
    "urllib3",
    "wandb",
)


class Tail(logging.Handler):
    """Remembers the last lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.extend(self.format(record).splitlines())

    def text(self) -> str:
        return "\n".join(line[:MAX_LINE] for line in list(self.lines)[-TAIL_LINES:])


def set_up_logging(rank: int | None = None) -> Tail:
    """Log to stdout; processes other than the main one only what is wrong. Returns the tail."""
    prefix = f"[rank {rank}] " if rank else ""
    formatter = logging.Formatter(prefix + FORMAT, datefmt="%H:%M:%S")
    tail = Tail()
    for handler in (logging.StreamHandler(sys.stdout), tail):
        handler.setFormatter(formatter)
        logging.root.addHandler(handler)
    logging.root.setLevel(logging.WARNING if rank else logging.INFO)
    logging.captureWarnings(True)
    quiet_libraries()
    return tail


def quiet_libraries() -> None:
    """Of what libraries have to say only errors: what they will change one day is not for users."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")
