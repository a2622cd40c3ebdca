"""spec.dataset: the rows, where they come from, how they are split, and which column plays which role."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.augment import Augment, Balance
from finetune_api.base import Document, Rule, present
from finetune_api.clean import Clean, Dedup
from finetune_api.fields import SOURCE_SCHEMES, Reference, SourceUri, Word


class DataFormat(StrEnum):
    AUTO = "Auto"
    CSV = "Csv"
    JSON = "Json"
    JSON_LINES = "JsonLines"
    PARQUET = "Parquet"
    ARROW = "Arrow"
    TEXT = "Text"
    IMAGE_FOLDER = "ImageFolder"
    AUDIO_FOLDER = "AudioFolder"


class ProblemType(StrEnum):
    SINGLE_LABEL = "SingleLabel"
    MULTI_LABEL = "MultiLabel"


class Source(Document):
    """One file, one folder of images or sound, or one data set of the hub."""

    uri: SourceUri = Field(description=f"Where the rows lie: {SOURCE_SCHEMES}.")
    format: DataFormat = Field(DataFormat.AUTO, description="How to read it; Auto goes by a file's ending.")
    split: Word | None = Field(None, description="Split of a hub data set or a folder, `train` if absent.")
    weight: float = Field(1.0, gt=0, le=1000, description="How many times an epoch has each row; 0.5 is half of them.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub data set.")
    secret_ref: Reference | None = Field(None, description="Secret whose keys (HF_TOKEN, AWS_…) reach the trainer.")


class HeldOut(Document):
    """Rows kept from training: a share of the training rows, or sources of their own."""

    fraction: float | None = Field(None, gt=0, lt=1, description="Share of the training rows to hold out.")
    stratify: bool = Field(
        True, description="Keep each label's share in the held-out rows; without groupBy and timeColumn only."
    )
    group_by: Word | None = Field(None, description="Column of groups whose rows all stay on one side.")
    time_column: Word | None = Field(None, description="Column of times: the newest rows are held out.")
    sources: Annotated[list[Source], Field(min_length=1, max_length=32)] | None = Field(
        None, description="Sources to use instead of a share."
    )
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{present('fraction')} != {present('sources')}",
            lambda split: (split.fraction is None) != (split.sources is None),
            "set exactly one of fraction and sources",
        ),
        Rule(
            f"!({present('groupBy')} && {present('timeColumn')})",
            lambda split: split.group_by is None or split.time_column is None,
            "set groupBy or timeColumn, not both",
        ),
        Rule(
            f"!{present('sources')} || !({present('groupBy')} || {present('timeColumn')})",
            lambda split: split.sources is None or not (split.group_by or split.time_column),
            "groupBy and timeColumn choose a fraction of the rows; leave them out beside sources",
        ),
    )


class Dataset(Document):
    """The labelled rows, how they are split, and which column plays which role."""

    train: Annotated[list[Source], Field(min_length=1, max_length=32)] = Field(description="Training rows.")
    validation: HeldOut = Field(HeldOut(fraction=0.1), description="Rows to evaluate on while training.")
    test: HeldOut = Field(HeldOut(fraction=0.1), description="Rows to evaluate on once, at the end.")
    columns: Annotated[dict[str, Word], Field(max_length=16)] = Field(
        {}, description="Role to column, for example `text: sentence`; a role that is absent has its own name."
    )
    problem_type: ProblemType = Field(
        ProblemType.SINGLE_LABEL, description="Whether a row of a classification has one label or several."
    )
    clean: Clean = Field(Clean(), description="What is repaired in rows, and which are dropped.")
    dedup: Dedup = Field(Dedup(), description="Rows that stand in the data more than once.")
    augment: Augment | None = Field(None, description="Changes of training rows, others in every epoch.")
    balance: Balance = Field(Balance(), description="Making up for classes that are rare.")
    limit: int | None = Field(None, ge=1, description="Use the first rows only.")

    def sources(self) -> Iterator[tuple[str, Source]]:
        """Every source with its field's path in a manifest."""
        held_out = (("validation.sources", self.validation.sources), ("test.sources", self.test.sources))
        for field, group in (("train", self.train), *held_out):
            for index, source in enumerate(group or []):
                yield f"spec.dataset.{field}[{index}]", source
