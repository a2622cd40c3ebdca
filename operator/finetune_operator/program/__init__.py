"""What the operator puts into the container of a program that is not ours: `launch.py`, as text, never imported."""

from __future__ import annotations

from importlib.resources import files


def launcher() -> str:
    """The text of launch.py."""
    return files(__name__).joinpath("launch.py").read_text(encoding="utf-8")
