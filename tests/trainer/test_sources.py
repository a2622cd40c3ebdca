"""Files of each format become the same rows; a file with a mistake gets a message that names it."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
import soundfile
from PIL import Image
from pyarrow import feather, ipc, parquet

from finetune_api.dataset import DataFormat, Source
from finetune_trainer.data import columns, folders
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.sources import Loaded, Reading, load_source
from finetune_trainer.data.uri import Places
from finetune_trainer.errors import ConfigError, DataError, RunError

RECORDS: list[dict[str, Any]] = [{"text": 'late, "very" late', "label": 1}, {"text": "zwölf\nEuro", "label": 2}]
TEXTS = Roles({"text": columns.text, "label": columns.label}, (("text", "label"),))
IMAGES = Roles({"image": columns.image, "label": columns.label}, (("image", "label"),), ("label",))
SOUNDS = Roles({"audio": columns.audio, "text": columns.text, "photo": columns.image}, (("audio", "text"),))
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
    if path.suffix in table:
        path.write_text(table[path.suffix](), encoding="utf-8")
    else:
        write_arrow(path)
    return path


def write_arrow(path: Path) -> None:
    """RECORDS in one of Arrow's layouts."""
    rows = pyarrow.Table.from_pylist(RECORDS)
    if path.suffix == ".parquet":
        parquet.write_table(rows, path)
    elif path.suffix == ".feather":
        feather.write_feather(rows, path)
    elif path.stem == "stream":
        with ipc.new_stream(path, rows.schema) as writer:
            writer.write_table(rows)
    else:
        with ipc.new_file(path, rows.schema) as writer:
            writer.write_table(rows)


def load_all(path: Path, roles: Roles = TEXTS, names: dict[str, str] | None = None, **fields: Any) -> Loaded:
    return load_source(Source(uri=path.as_uri(), **fields), roles, names or {}, Places(), FIELD)


def load(path: Path, format: DataFormat = DataFormat.AUTO) -> list[dict[str, Any]]:
    return [dict(row.values) for row in load_all(path, format=format).rows]


@pytest.mark.parametrize(
    "name",
    [
        "rows.csv",
        "rows.tsv",
        "rows.json",
        "rows.jsonl",
        "rows.parquet",
        "rows.arrow",
        "stream.arrow",
        "rows.feather",
    ],
)
def test_formats(name: str, tmp_path: Path) -> None:
    """Quotes, newlines and numbers as labels arrive as the same text from every format."""
    expected = [{"text": 'late, "very" late', "label": "1"}, {"text": "zwölf\nEuro", "label": "2"}]
    assert load(write(tmp_path, name)) == expected


def test_plain_text_has_a_row_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone, two\r\n \n  three\n".encode())
    roles = Roles({"text": columns.text, "prompt": columns.text}, (("prompt",), ("text",)))
    assert [(dict(row.values), row.place) for row in load_all(path, roles).rows] == [
        ({"text": "one, two"}, f"row 1 of {path.as_uri()}"),
        ({"text": "  three"}, f"row 2 of {path.as_uri()}"),
    ]


def test_rows_have_the_weight_of_their_source(tmp_path: Path) -> None:
    assert [row.weight for row in load_all(write(tmp_path, "a.csv"), weight=2.5).rows] == [2.5, 2.5]


def test_the_format_that_is_named_wins_over_the_ending(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl").rename(tmp_path / "rows.dump")
    assert len(load(path, DataFormat.JSON_LINES)) == 2


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\na,b\n")
    assert load(path) == [{"text": "a", "label": "b"}]


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
            "set spec.dataset.train[0].format to one of Csv, Json, JsonLines, Parquet, Arrow, Text",
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


@pytest.mark.parametrize(("name", "kind"), [("a.parquet", "Parquet"), ("a.arrow", "Arrow")])
def test_a_file_that_is_not_what_its_ending_says(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("text,label\n")
    with pytest.raises(DataError, match=f"is not {kind}"):
        load(path)


def test_a_column_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence,label\na,b\n")
    assert dict(load_all(path, names={"text": "sentence"}).rows[0].values) == {"text": "a", "label": "b"}


@pytest.mark.parametrize(
    ("format", "reason", "message"),
    [
        pytest.param(DataFormat.AUTO, "NotAFile", "{uri} is a folder", id="folder of neither images nor sounds"),
        pytest.param(DataFormat.CSV, "NotAFile", "{uri} is a folder", id="folder as CSV"),
        pytest.param(
            DataFormat.IMAGE_FOLDER,
            "NotAFolder",
            "{uri}/a.csv is a file, but spec.dataset.train[0].format is ImageFolder",
            id="file as folder",
        ),
    ],
)
def test_a_folder_is_not_a_file(format: DataFormat, reason: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, "a.csv")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.csv" if reason == "NotAFolder" else tmp_path, format)
    expected = f"{FIELD}.uri: {message.format(uri=tmp_path.as_uri())}"
    assert (caught.value.reason, caught.value.message) == (reason, expected)


def image_file(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (level, 0, 0)).save(path)
    return path


def media_and_rest(loaded: Loaded, role: str) -> list[tuple[Any, ...]]:
    """The name of each row's file, and its other values."""
    return [(row.values[role].name, *(row.values[key] for key in row.values if key != role)) for row in loaded.rows]


def test_a_folder_of_images_has_its_labels_in_the_names_of_folders(tmp_path: Path) -> None:
    """Auto knows it by its files, splits are folders, and a row that predicts needs no label."""
    for number, name in enumerate(["train/cat/a.png", "train/dog/b.png", "test/dog/c.png"]):
        image_file(tmp_path / "photos" / name, number)
    folder = tmp_path / "photos"
    train = load_all(folder, IMAGES)
    assert media_and_rest(train, "image") == [("a.png", "cat"), ("b.png", "dog")]
    assert media_and_rest(load_all(folder, IMAGES, split="test"), "image") == [("c.png", "dog")]
    with pytest.raises(ConfigError) as caught:
        load_all(folder, IMAGES, split="tset")
    assert caught.value.message == f"{folder.as_uri()} has no split 'tset'"
    assert caught.value.hint == "did you mean test? splits there are: test, train"
    image_file(folder / "train" / "cat" / "a.png", 77)
    assert load_all(folder, IMAGES).digest != train.digest


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param("dog/a.png car/b.png train/c.png", "b.png=car a.png=dog c.png=train", id="a class called train"),
        pytest.param("a.png b.png", "a.png b.png", id="no folders"),
        pytest.param("dog/a.png dog/._a.png .trash/b.png", "a.png=dog", id="files that nobody sees"),
        pytest.param("dog/a.png b.png", "b.png a.png", id="folders that are no classes"),
        pytest.param("val/dog/a.png training/cat/b.png training/dog/c.PNG", "b.png=cat c.PNG=dog", id="other names"),
    ],
)
def test_labels_and_splits_of_a_folder(files: str, expected: str, tmp_path: Path) -> None:
    for name in files.split():
        image_file(tmp_path / name)
    roles = Roles(IMAGES.kinds, (("image", "label"), ("image",)))
    assert " ".join("=".join(row) for row in media_and_rest(load_all(tmp_path, roles), "image")) == expected


@pytest.mark.parametrize("split", ["train", "test"])
def test_metadata_says_what_belongs_to_an_image(split: str, tmp_path: Path) -> None:
    """Values stay as they are written (007 is no number); a file above the splits describes all of them."""
    for name in ("train/a.png", "train/b.png", "test/c.png"):
        image_file(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,kind\ntrain/b.png,007\ntest/c.png,NA\ntrain/a.png,8\n")
    expected = {"train": [("b.png", "007"), ("a.png", "8")], "test": [("c.png", "NA")]}
    loaded = load_all(tmp_path, IMAGES, {"label": "kind"}, split=split)
    assert media_and_rest(loaded, "image") == expected[split]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param("name,label\na.png,x\n", "metadata.csv of {uri} has no column file_name", id="no file_name"),
        pytest.param(
            "file_name,label\na.png,x\nb.png,x\n",
            "row 2 of {uri}: column 'image' (image) names {folder}/b.png, which does not exist",
            id="a file that is not there",
        ),
    ],
)
def test_metadata_that_is_wrong(metadata: str, message: str, tmp_path: Path) -> None:
    image_file(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(metadata)
    with pytest.raises(DataError) as caught:
        load_all(tmp_path, IMAGES)
    assert caught.value.message == message.format(uri=tmp_path.as_uri(), folder=tmp_path)


def test_a_folder_of_sounds(tmp_path: Path) -> None:
    """Also one whose rows have an image, too."""
    soundfile.write(tmp_path / "a.wav", numpy.zeros(8), 8000)
    soundfile.write(tmp_path / "b.wav", numpy.zeros(8), 8000)
    image_file(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "photo_file_name": "a.png", "text": "eins"}\n')
    loaded = load_all(tmp_path, SOUNDS, {"photo": "photo"})
    assert [(row.values["audio"].name, row.values["photo"].name, row.values["text"]) for row in loaded.rows] == [
        ("a.wav", "a.png", "eins")
    ]


def test_a_folder_without_what_its_format_says(tmp_path: Path) -> None:
    image_file(tmp_path / "a.png")
    with pytest.raises(DataError, match="has no audio files"):
        load_all(tmp_path, SOUNDS, format=DataFormat.AUDIO_FOLDER)


def test_a_table_names_files_beside_it_or_holds_their_bytes(tmp_path: Path) -> None:
    """Paths are relative to the table, whatever its format; Parquet may have the bytes, as the hub's data sets do."""
    content = image_file(tmp_path / "photos" / "a.png").read_bytes()
    (tmp_path / "a.csv").write_text("image,label\nphotos/a.png,cat\n")
    cell = {"bytes": content, "path": "a.png"}
    parquet.write_table(pyarrow.Table.from_pylist([{"image": cell, "label": "cat"}]), tmp_path / "a.parquet")
    sides = [load_all(tmp_path / name, IMAGES).rows[0].values for name in ("a.csv", "a.parquet")]
    assert sides[0]["image"].read() == sides[1]["image"].read() == content
    assert sides[0]["image"].sha256 == sides[1]["image"].sha256


def test_a_row_whose_file_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,label\nphotos/a.png,cat\n")
    with pytest.raises(DataError) as caught:
        load_all(path, IMAGES)
    assert caught.value.message == (
        f"row 1 of {path.as_uri()}: column 'image' (image) names photos/a.png, which does not exist"
    )


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps of repositories that it has read goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".datasets")


@pytest.mark.usefixtures("own_cache")
def test_a_repository_of_the_hub_gives_labels_by_name_and_nothing_decoded(tmp_path: Path) -> None:
    """As the hub stores it, with its splits and class names in README.md, read without a network."""
    names = "{class_label: {names: {'0': bad, '1': good}}}"
    features = f"[{{name: photo, dtype: image}}, {{name: label, dtype: {names}}}, {{name: tags, list: {names}}}]"
    data = tmp_path / "repository"
    data.mkdir()
    (data / "README.md").write_text(
        "---\nconfigs: [{config_name: default, data_files: [{split: train, path: a.parquet}]}]\n"
        f"dataset_info: {{features: {features}}}\n---\n"
    )
    photo = {"bytes": b"not even an image", "path": "a.png"}
    rows = [{"photo": photo, "label": 1, "tags": [0, 1]}, {"photo": photo, "label": -1, "tags": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data / "a.parquet")
    table = folders.read_repository(data, "train", "hf://owner/name")
    assert (table.columns, list(table.records)) == (
        ["photo", "label", "tags"],
        [
            {"photo": photo, "label": "good", "tags": ["bad", "good"]},
            {"photo": photo, "label": None, "tags": []},
        ],
    )
    with pytest.raises(ConfigError, match="hf://owner/name has no split 'dev'"):
        folders.read_repository(data, "dev", "hf://owner/name")


@pytest.mark.usefixtures("own_cache")
def test_a_repository_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"hf://owner/name cannot be read: .*Parquet magic bytes not found"):
        folders.read_repository(tmp_path, "train", "hf://owner/name")


def test_a_repository_of_sounds_without_a_table(tmp_path: Path) -> None:
    for name in ("train/yes/a.wav", "train/no/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / name, numpy.zeros(8), 8000)
    table = folders.read_repository(tmp_path, "train", "hf://owner/name")
    assert [(Path(record["audio"]).name, record["label"]) for record in table.records] == [
        ("b.wav", "no"),
        ("a.wav", "yes"),
    ]


def large(path: Path) -> Path:
    """8,000 rows of 1,000 characters; of Parquet in one row group, of Arrow in one batch."""
    texts = [f"{number:04d}" * 250 for number in range(8000)]
    table = pyarrow.table({"text": texts, "label": ["x"] * len(texts)})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".arrow":
        with ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    elif path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{text},x\n" for text in texts))
    else:
        path.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "jsonl"])
def test_a_file_is_read_in_pieces(ending: str, tmp_path: Path) -> None:
    """So that rows may be more than fit in memory: those of this file take 8 MB and more."""
    source = Source(uri=large(tmp_path / f"a.{ending}").as_uri())
    tracemalloc.start()
    try:
        reading = Reading(source, TEXTS, {}, Places(), FIELD)
        assert sum(len(row.values["text"]) for row in reading.rows()) == 8_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


HEAVY = ("torch", "torchcodec", "transformers", "PIL", "soundfile", "soxr", "obstore", "httpx", "huggingface_hub")
READ = """
import sys
from finetune_api.dataset import Source
from finetune_trainer.data import columns
from finetune_trainer.data.sources import load_source
from finetune_trainer.data.uri import Places
roles = columns.Roles({{"audio": columns.audio, "label": columns.label}}, (("audio", "label"),))
rows = load_source(Source(uri={uri!r}), roles, {{}}, Places(), "field").rows
print(len(rows), *sorted(set({heavy!r}) & set(sys.modules)))
"""


def test_reading_rows_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    """The supervisor reads every row before the ranks start, within seconds, and without torch."""
    for name in ("yes/a.wav", "no/b.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, numpy.zeros(8), 8000)
    code = READ.format(uri=tmp_path.as_uri(), heavy=HEAVY)
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read.stdout.split() == ["2"]
