"""Folders of images, of sounds, and repositories as the hub lays them out. Nothing is decoded here.

The layouts are those of the `datasets` library. Its own reader of sound folders needs torch, which may not be imported
before the ranks, and that of metadata.csv guesses types (007 becomes 7); so only repositories are read by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_api.dataset import DataFormat
from finetune_trainer.data import formats
from finetune_trainer.data.rows import Record, Table
from finetune_trainer.errors import ConfigError, DataError, nearest
from finetune_trainer.files import files_below

COLUMNS: Mapping[DataFormat, str] = {DataFormat.IMAGE_FOLDER: "image", DataFormat.AUDIO_FOLDER: "audio"}
"""The column that the files of a folder stand in."""
ENDINGS: Mapping[DataFormat, frozenset[str]] = {
    DataFormat.IMAGE_FOLDER: frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}),
    DataFormat.AUDIO_FOLDER: frozenset({".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}),
}
SPLITS = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}
SPLITS |= {name: name for name in ("train", "validation", "test")}
"""The folder of a split by its name, or by what else people call it."""
METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
FILE_NAME = "file_name"
BATCH = 1000


def format_of(folder: Path) -> DataFormat | None:
    """Which of the two most files of a folder belong to; None if it has neither images nor sounds."""
    kinds = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
    found = Counter(kinds[path.suffix.lower()] for path in _visible(folder) if path.suffix.lower() in kinds)
    return found.most_common(1)[0][0] if found else None


def read_folder(folder: Path, kind: DataFormat, split: str, name: str) -> Table:
    """The files of one split with their labels, or with what the metadata files say of them.

    A split is a folder of its name, if all files lie in such folders; otherwise all are of the split `train`. A label
    is the name of the folder that a file lies in; there are none if files lie at several depths. A metadata file has
    the columns of a table; `file_name`, or `x_file_name` for a column x, is relative to its own folder.
    """
    below = _visible(folder)
    files = [path for path in below if path.suffix.lower() in ENDINGS[kind]]
    if not files:
        known = ", ".join(sorted(ENDINGS[kind]))
        raise DataError("NoRows", f"{name} has no {COLUMNS[kind]} files", f"endings that count: {known}")
    in_splits = all(path.relative_to(folder).parts[0] in SPLITS for path in files)
    splits = _by_split(folder, files) if in_splits else {"train": files}
    split = SPLITS.get(split, split)
    if split not in splits:
        raise _no_split(split, list(splits), name)
    metadata = [path for path in below if path.name in METADATA]
    if metadata:
        return Table(_described(metadata, splits[split], COLUMNS[kind], name), folder)
    depths = {len(path.relative_to(folder).parts) - in_splits for path in files}
    return Table(_labelled(splits[split], COLUMNS[kind], labels=len(depths) == 1 and max(depths) > 1), folder)


def _visible(folder: Path) -> list[Path]:
    """The files without those that systems put beside them, such as ._1.png."""
    return [path for path in files_below(folder) if "/." not in f"/{path.relative_to(folder)}"]


def _by_split(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        splits[SPLITS[path.relative_to(folder).parts[0]]].append(path)
    return splits


def _no_split(split: str, known: Sequence[str], name: str) -> ConfigError:
    return ConfigError("SplitNotFound", f"{name} has no split {split!r}", nearest(split, known, "splits there are"))


def _labelled(files: Sequence[Path], column: str, labels: bool) -> Iterator[Record]:
    for path in files:
        yield {column: str(path), "label": path.parent.name} if labels else {column: str(path)}


def _described(metadata: Sequence[Path], files: Sequence[Path], column: str, name: str) -> Iterator[Record]:
    """The metadata's rows about `files`, and about files that are not there at all, which is an error later."""
    wanted = set(files)
    for path in metadata:
        for record in formats.read_file(path, formats.ENDINGS[path.suffix], f"{path.name} of {name}").records:
            named = {key: path.parent / str(value) for key, value in record.items() if key.endswith(FILE_NAME)}
            if not named:
                message = f"{path.name} of {name} has no column {FILE_NAME}"
                raise DataError("BrokenMetadata", message, "name in it each row's file, relative to its folder")
            if any(file in wanted or not file.exists() for file in named.values()):
                media = {key[: -len(f"_{FILE_NAME}")] or column: str(file) for key, file in named.items()}
                yield {**media, **{key: value for key, value in record.items() if key not in named}}


def read_repository(folder: Path, split: str, name: str) -> Table:
    """One split of a data set's repository that lies in `folder`; class labels come by name."""
    tables = [path for path in _visible(folder) if path.suffix in formats.ENDINGS and path.name not in METADATA]
    kind = format_of(folder)
    if kind is not None and not tables:
        return read_folder(folder, kind, split, name)
    return _read_tables(folder, split, name)


def _read_tables(folder: Path, split: str, name: str) -> Table:
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(str(folder))
    except (datasets.exceptions.DatasetsError, ImportError, ValueError, OSError) as error:
        raise _unreadable(name, error) from error
    if split not in loaded:
        raise _no_split(split, [str(known) for known in loaded], name)
    return Table(_records(loaded[split]), folder, list(loaded[split].column_names))


def _unreadable(name: str, error: Exception) -> DataError:
    """`datasets` says in its own error that something failed, and in the one before it what."""
    cause = error.__cause__ or error
    first_line = str(cause).strip().partition("\n")[0] or type(cause).__name__
    return DataError("UnreadableDataSet", f"{name} cannot be read: {first_line}", "see docs/data.md for the layouts")


def _records(table: Any) -> Iterator[Record]:
    """Records as Arrow has them: so no image and no sound is decoded."""
    for batch in table.with_format("arrow").iter(batch_size=BATCH):
        for record in batch.to_pylist():
            yield {column: _by_name(value, table.features[column]) for column, value in record.items()}


def _by_name(value: Any, feature: Any) -> Any:
    """A class label's name instead of its number, also in lists; None for -1, which says that there is none."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return feature.names[value] if value is not None and value >= 0 else None
    if isinstance(feature, datasets.List | datasets.LargeList) and value is not None:
        return [_by_name(item, feature.feature) for item in value]
    return value
