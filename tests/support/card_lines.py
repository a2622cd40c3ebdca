"""Python lines that a card tells people to type."""

from __future__ import annotations

import ast
from typing import Any


def answer_of(lines: str) -> Any:
    """Runs the lines and returns what a notebook would show below them: the value of the last one.

    Fails if the last line is no expression, and so shows nothing.
    """
    module = ast.parse(lines)
    last = module.body.pop()
    assert isinstance(last, ast.Expr), f"the last line says nothing: {ast.unparse(last)}"
    names: dict[str, Any] = {}
    exec(compile(module, "the card", "exec"), names)
    return eval(compile(ast.Expression(last.value), "the card", "eval"), names)
