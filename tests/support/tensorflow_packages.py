"""TensorFlow as a folder for PYTHONPATH: no image of its own, and never in the project's environment."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.cluster.layout import default_cache

LOCK = Path(__file__).with_name("tensorflow.lock")
PROGRAM = Path(__file__).with_name("tensorflow_program.py")
PYTHON = "3.11"
"""The trainer image's."""
UNUSED = ("clang", "tensorflow/include")
"""A quarter of the size: for programs that are built against TensorFlow."""


def tensorflow_packages() -> Path:
    """The folder with what tensorflow.lock names, installed where the cache lacks it (1 GB)."""
    folder = default_cache() / "tensorflow" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        wanted = Path(partial, "packages")
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--compile-bytecode"]
        options = ["--require-hashes", "--python-version", PYTHON, "--target", str(wanted), "--requirements", str(LOCK)]
        subprocess.run([*uv, "--python", sys.executable, *options], check=True)
        for name in UNUSED:
            shutil.rmtree(wanted / name)
        wanted.rename(folder)
    return folder
