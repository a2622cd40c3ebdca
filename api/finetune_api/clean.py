"""spec.dataset.clean and spec.dataset.dedup: what becomes of rows before anything learns from them."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present

MOST_CHARS = 100_000_000


class UnicodeForm(StrEnum):
    NONE = "None"
    NFC = "NFC"
    NFD = "NFD"
    NFKC = "NFKC"
    NFKD = "NFKD"


class CleanAudio(Document):
    """Cleaning of clips; nothing is done without a value."""

    trim_silence: float | None = Field(
        None, gt=0, le=120, description="Cut from both ends what is this many dB below a clip's loudest moment."
    )
    min_seconds: float | None = Field(None, gt=0, le=86_400, description="Drop shorter clips.")
    max_seconds: float | None = Field(None, gt=0, le=86_400, description="Drop longer clips.")
    drop_clipped: float | None = Field(
        None, ge=0, lt=1, description="Drop clips of which a larger share of samples is at full scale."
    )
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!{present('minSeconds')} || !{present('maxSeconds')} || self.minSeconds <= self.maxSeconds",
            lambda audio: (audio.min_seconds or 0) <= (audio.max_seconds or float("inf")),
            "let minSeconds be at most maxSeconds",
        ),
    )


class Clean(Document):
    """Cleaning, one row at a time; what each step changed and dropped is counted in run.json."""

    fix_encoding: bool = Field(True, description="Repair text that was read in the wrong encoding, `schÃ¶n`.")
    strip_html: bool = Field(False, description="Keep the text of HTML only.")
    remove_control: bool = Field(True, description="Remove control characters that are no white space.")
    normalize_unicode: UnicodeForm = Field(UnicodeForm.NFC, description="One way to write each character.")
    collapse_whitespace: bool = Field(False, description="One blank for all white space between words.")
    drop_empty: bool = Field(True, description="Drop rows with an empty input; false refuses them.")
    min_chars: int = Field(1, ge=1, le=MOST_CHARS, description="Drop rows with a shorter input text.")
    max_chars: int | None = Field(None, ge=1, le=MOST_CHARS, description="Drop rows with a longer input text.")
    drop_corrupt: bool = Field(False, description="Drop images and clips that cannot be read; false refuses them.")
    audio: CleanAudio = Field(CleanAudio(), description="Cleaning of clips.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!{present('minChars')} || !{present('maxChars')} || self.minChars <= self.maxChars",
            lambda clean: clean.max_chars is None or clean.min_chars <= clean.max_chars,
            "let minChars be at most maxChars",
        ),
    )


class DedupMethod(StrEnum):
    NONE = "None"
    EXACT = "Exact"
    MIN_HASH = "MinHash"


class Dedup(Document):
    """Rows that say the same."""

    method: DedupMethod = Field(
        DedupMethod.NONE, description="Which rows of dataset.train are dropped: equal ones, or also nearly equal texts."
    )
    threshold: float = Field(
        0.85, ge=0.5, le=0.95, description="MinHash: share of common runs of words from which texts are nearly equal."
    )
    across_splits: bool = Field(
        True,
        description="Drop training rows whose input is in validation or test, too; MinHash: or nearly so.",
    )
