"""Files of each format become the same rows; a file with a mistake gets a message that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from finetune_api.job import DataFormat, Source
from finetune_trainer.data import hub
from finetune_trainer.data.rows import as_text
from finetune_trainer.data.sources import Roles, load_source
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import ConfigError, DataError, RunError

RECORDS: list[dict[str, Any]] = [{"text": 'late, "very" late', "label": 1}, {"text": "zwölf\nEuro", "label": 2}]
COLUMNS = {"text": "text", "label": "label"}
FIELD = "spec.dataset.train[0]"


def write(folder: Path, name: str) -> Path:
    """RECORDS in the format that the ending tells."""
    path = folder / name
    table = {
        ".csv": lambda: 'text,label\n"late, ""very"" late",1\n"zwölf\nEuro",2\n',
        ".tsv": lambda: 'text\tlabel\n"late, ""very"" late"\t1\n"zwölf\nEuro"\t2\n',
        ".json": lambda: json.dumps(RECORDS),
        ".jsonl": lambda: "\n".join(json.dumps(record) for record in RECORDS) + "\n\n",
    }
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    else:
        path.write_text(table[path.suffix](), encoding="utf-8")
    return path


def load(path: Path, format: DataFormat = DataFormat.AUTO, **columns: str) -> list[dict[str, str]]:
    loaded = load_source(Source(uri=path.as_uri(), format=format), COLUMNS | columns, Places(), FIELD)
    return [dict(row.values) for row in loaded.rows]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.parquet"])
def test_formats(name: str, tmp_path: Path) -> None:
    """Quotes, newlines and numbers as labels arrive as the same text from every format."""
    expected = [{"text": 'late, "very" late', "label": "1"}, {"text": "zwölf\nEuro", "label": "2"}]
    assert load(write(tmp_path, name)) == expected


def test_the_format_that_is_named_wins_over_the_ending(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl").rename(tmp_path / "rows.dump")
    assert len(load(path, DataFormat.JSON_LINES)) == 2


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\na,b\n")
    assert load(path) == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, None, id="null"),
        pytest.param(float("nan"), None, id="NaN"),
        pytest.param("  ", None, id="blanks"),
        pytest.param(3.0, "3", id="integers beside a gap"),
        pytest.param(0.5, "0.5", id="float"),
        pytest.param(True, "True", id="boolean"),
        pytest.param("NA", "NA", id="a word that some readers take for nothing"),
    ],
)
def test_as_text(value: Any, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("name", "content", "error", "message", "hint"),
    [
        pytest.param(
            "a.csv",
            "sentence,label\na,b\n",
            ConfigError,
            "spec.dataset.columns.text: {uri} has no column 'text'",
            "columns there are: label, sentence",
            id="column that is not there",
        ),
        pytest.param(
            "a.csv",
            "texts,label\na,b\n",
            ConfigError,
            "spec.dataset.columns.text: {uri} has no column 'text'",
            "did you mean texts? columns there are: label, texts",
            id="column of nearly the same name",
        ),
        pytest.param(
            "a.csv",
            "text,label\na,b\nc,\n",
            DataError,
            "row 2 of {uri}: column 'label' (label) is empty",
            "fill the cell or remove the row",
            id="empty cell",
        ),
        pytest.param(
            "a.csv",
            "text,label\na,b\nc,d,e\n",
            DataError,
            "row 2 of {uri} has 3 cells, the header has 2",
            "see line 3: quote cells that hold a delimiter",
            id="too many cells",
        ),
        pytest.param("a.csv", "text,label\n", DataError, "{uri} has no rows", "name a file with rows", id="no rows"),
        pytest.param(
            "a.jsonl",
            '{"text": "a", "label": "b"}\n\n{"text": \n',
            DataError,
            "row 2 (line 3) of {uri} is not JSON: Expecting value",
            None,
            id="broken line",
        ),
        pytest.param(
            "a.jsonl",
            '{"text": "a", "label": null}\n',
            DataError,
            "row 1 of {uri}: column 'label' (label) is empty",
            "fill the cell or remove the row",
            id="null",
        ),
        pytest.param(
            "a.jsonl",
            '{"text": ["a"], "label": "b"}\n',
            DataError,
            "row 1 of {uri}: column 'text' holds a list, not one value",
            None,
            id="list in a cell",
        ),
        pytest.param(
            "a.json",
            '{"text": "a"}',
            DataError,
            "{uri} is not a list of objects",
            "with an object a line, use JsonLines",
            id="object instead of a list",
        ),
        pytest.param(
            "a.xlsx",
            "",
            ConfigError,
            "spec.dataset.train[0].uri: cannot tell the format of {uri} from its ending",
            "set spec.dataset.train[0].format to Csv, Json, JsonLines or Parquet",
            id="unknown ending",
        ),
    ],
)
def test_what_is_wrong(
    name: str, content: str, error: type[RunError], message: str, hint: str | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(error) as caught:
        load(path)
    assert (caught.value.message, caught.value.hint) == (message.format(uri=path.as_uri()), hint)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nzwölf,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8: .* at byte"):
        load(path)


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("text,label\n")
    with pytest.raises(DataError, match="is not Parquet"):
        load(path)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spec.dataset.train\[0\].uri: .* is a folder"):
        load(tmp_path)


def test_roles() -> None:
    """Roles that the manifest does not name stand in columns of their own name; optional ones only if named."""
    roles = Roles(required=("text", "label"), optional=("textPair",))
    assert roles.columns({"text": "sentence"}) == {"text": "sentence", "label": "label"}
    assert roles.columns({"textPair": "b"}) == {"text": "text", "label": "label", "textPair": "b"}


def test_a_role_that_the_task_does_not_have() -> None:
    with pytest.raises(ConfigError) as caught:
        Roles(required=("text", "label")).columns({"lable": "x"})
    assert caught.value.message == "spec.dataset.columns.lable: this task has no such role"
    assert caught.value.hint == "did you mean label? roles of this task: label, text"


def test_a_data_set_of_the_hub_gives_labels_by_name(tmp_path: Path) -> None:
    """A repository as the hub stores it, with its splits and class names in README.md, read without a network."""
    features = "[{name: text, dtype: string}, {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}]"
    data = tmp_path / "repository"
    data.mkdir()
    (data / "README.md").write_text(
        "---\nconfigs: [{config_name: default, data_files: [{split: train, path: a.parquet}]}]\n"
        f"dataset_info: {{features: {features}}}\n---\n"
    )
    parquet.write_table(
        pyarrow.Table.from_pylist([{"text": "a", "label": 1}, {"text": "b", "label": 0}]), data / "a.parquet"
    )
    columns, records = hub.read_snapshot(data, "train", "hf://owner/name")
    assert (columns, list(records)) == (
        ["text", "label"],
        [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}],
    )
    with pytest.raises(ConfigError, match="hf://owner/name has no split 'dev'"):
        hub.read_snapshot(data, "dev", "hf://owner/name")
