"""spec.model: the pre-trained model to start from."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present
from finetune_api.fields import SOURCE_SCHEMES, Reference, SourceUri, Word


class Encoder(Document):
    """The pre-trained encoder of one modality."""

    uri: SourceUri = Field(description=f"Where the encoder lies: {SOURCE_SCHEMES}.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub model.")


class Encoders(Document):
    """An encoder for each modality, whose outputs are joined."""

    text: Encoder | None = Field(None, description="Encoder of the text column.")
    image: Encoder | None = Field(None, description="Encoder of the image column.")
    audio: Encoder | None = Field(None, description="Encoder of the audio column.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            " + ".join(f"({present(name)} ? 1 : 0)" for name in ("text", "image", "audio")) + " >= 2",
            lambda encoders: len(encoders.named()) >= 2,
            "set at least two of text, image and audio",
        ),
    )

    def named(self) -> dict[str, Encoder]:
        """Modality to encoder, those that are set."""
        return {name: encoder for name in ("text", "image", "audio") if (encoder := getattr(self, name)) is not None}


class Model(Document):
    """The pre-trained model to start from."""

    uri: SourceUri | None = Field(None, description=f"Where the model lies: {SOURCE_SCHEMES}.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub model.")
    encoders: Encoders | None = Field(None, description="Instead of uri, for multimodal-classification.")
    trust_remote_code: bool = Field(False, description="Run code that comes with a hub model.")
    secret_ref: Reference | None = Field(None, description="Secret whose keys (HF_TOKEN, AWS_…) reach the trainer.")
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{present('uri')} != {present('encoders')}",
            lambda model: (model.uri is None) != (model.encoders is None),
            "set exactly one of uri and encoders",
        ),
    )

    def uris(self) -> dict[str, str]:
        """Every URI by its field's path in a manifest."""
        if self.encoders is None:
            return {"spec.model.uri": str(self.uri)}
        return {f"spec.model.encoders.{name}.uri": encoder.uri for name, encoder in self.encoders.named().items()}
