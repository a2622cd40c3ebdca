"""Folders that the `datasets` library reads: of images, of sounds, and repositories as the hub lays them out.

Nothing is decoded here, and class labels come by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_api.job import DataFormat
from finetune_trainer.data.rows import Record, Table
from finetune_trainer.errors import ConfigError, DataError, nearest
from finetune_trainer.files import files_below

BUILDERS: Mapping[DataFormat, str] = {
    DataFormat.IMAGE_FOLDER: "imagefolder",
    DataFormat.AUDIO_FOLDER: "audiofolder",
}
ENDINGS: Mapping[DataFormat, frozenset[str]] = {
    DataFormat.IMAGE_FOLDER: frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}),
    DataFormat.AUDIO_FOLDER: frozenset({".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}),
}
"""What tells a folder of images from one of sounds; named in the manifest, each may hold more formats."""
BATCH = 1000


def format_of(folder: Path) -> DataFormat | None:
    """Which of the two most files of a folder belong to; None if it has neither images nor sounds."""
    kinds = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
    found = Counter(kinds[path.suffix.lower()] for path in files_below(folder) if path.suffix.lower() in kinds)
    return found.most_common(1)[0][0] if found else None


def read_folder(folder: Path, kind: DataFormat, split: str, name: str) -> Table:
    """The files of one split with their labels, or with what metadata.csv or metadata.jsonl says of each."""
    return _read(name, folder, split, path=BUILDERS[kind], data_dir=str(folder))


def read_repository(folder: Path, split: str, name: str) -> Table:
    """One split of a data set's repository that lies in `folder`."""
    return _read(name, folder, split, path=str(folder))


def _read(name: str, folder: Path, split: str, **arguments: str) -> Table:
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(**arguments)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise _unreadable(name, error) from error
    if split not in loaded:
        hint = nearest(split, [str(known) for known in loaded], "splits there are")
        raise ConfigError("SplitNotFound", f"{name} has no split {split!r}", hint)
    return Table(_records(loaded[split]), folder, list(loaded[split].column_names))


def _unreadable(name: str, error: Exception) -> DataError:
    """`datasets` says in its own error that something failed, and in the one before it what."""
    cause = error.__cause__ or error
    first_line = str(cause).strip().partition("\n")[0] or type(cause).__name__
    return DataError("UnreadableFolder", f"{name} cannot be read: {first_line}", "see docs/data.md for the layouts")


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
