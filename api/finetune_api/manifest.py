"""Reading manifests: the same YAML that kubectl understands, and every mistake told at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError

from finetune_api.job import FineTuneJob


@dataclass(frozen=True)
class Problem:
    """One mistake: the field's path as kubectl writes it, what is wrong, and what would work."""

    field: str
    reason: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" + (f" ({self.hint})" if self.hint else "")


class InvalidManifest(Exception):
    """A manifest that cannot be used; `problems` has every mistake."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class _KubectlLoader(yaml.SafeLoader):
    """YAML as kubectl's parser resolves it: 1e-4 is a number, dates are text, a key stands once."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    legacy_octal = re.fullmatch(r"([-+]?)0([0-7]+)", text)
    return int(f"{legacy_octal[1]}0o{legacy_octal[2]}" if legacy_octal else text, 0)


_BOOLS = "y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_SPECIAL = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_RESOLVERS = (
    ("bool", rf"^(?:{_BOOLS})$", list("yYnNtTfFoO")),
    ("int", r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$", list("-+0123456789")),
    ("float", rf"^(?:{_NUMBER}|{_SPECIAL})$", list("-+0123456789.")),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", ["<"]),
)
for _name, _pattern, _first in _RESOLVERS:
    _KubectlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)
_KubectlLoader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
_KubectlLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(text: str) -> Any:
    """The value of a YAML document as plain JSON, keys as text.

    Raises InvalidManifest with line and column where the text is not YAML.
    """
    try:
        return _with_text_keys(yaml.load(text, Loader=_KubectlLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
        raise InvalidManifest([Problem(place, getattr(error, "problem", None) or str(error))]) from error


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key_text(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _key_text(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def parse_job(value: Any) -> FineTuneJob:
    """The FineTuneJob in a plain value. Raises InvalidManifest with every mistake."""
    if not isinstance(value, dict):
        raise InvalidManifest([Problem("file", "holds no object", "start with apiVersion, kind, metadata and spec")])
    try:
        return FineTuneJob.model_validate(value)
    except ValidationError as error:
        raise InvalidManifest(problems_of(error, FineTuneJob)) from error


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic found, in the words of a manifest's author, one problem a field."""
    problems: dict[str, Problem] = {}
    for item in error.errors():
        location = [part for part in item["loc"] if not _is_union_branch(part)]
        problem = Problem(_path(location), _reason(dict(item)), _hint(dict(item), location, model))
        problems.setdefault(problem.field, problem)
    return list(problems.values())


def _is_union_branch(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"int", "constrained-int"})


def _path(location: Sequence[Any]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "manifest"


def _reason(item: dict[str, Any]) -> str:
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind in {"enum", "literal_error"}:
        return f"{value!r} is not one of {str(context['expected']).replace(' or ', ', ')}"
    if kind == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    return f"{_shown(value)}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _hint(item: dict[str, Any], location: Sequence[Any], model: type[BaseModel]) -> str | None:
    if item["type"] == "extra_forbidden":
        return _nearest(str(location[-1]), _fields_at(location[:-1], model))
    if item["type"] in {"enum", "literal_error"}:
        allowed = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        return _nearest(str(item.get("input")), allowed, listed=False)
    return None


def _nearest(name: str, names: Sequence[str], listed: bool = True) -> str | None:
    lowered = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if matches:
        return f"did you mean {lowered[matches[0]]}?"
    return f"fields here: {', '.join(sorted(names))}" if listed and names else None


def _fields_at(location: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """Names of the fields that the object at `location` may have."""
    for part in location:
        if isinstance(part, int):
            continue
        found = next((info for name, info in model.model_fields.items() if part in (name, info.alias)), None)
        inner = _model_in(found.annotation) if found else None
        if inner is None:
            return []
        model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
