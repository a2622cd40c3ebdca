"""Kinds of fields that the sections of a manifest share: names, quantities, places of data and models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from finetune_api.base import Document

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
URI_PATTERN = r"^(hf|pkg|pvc|file|s3|gs|az|https)://[^\s]+$|^\./[^\s]*$"
VOLUME_PATTERN = r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]*)?$"
PUSH_PATTERN = r"^(s3|gs|az|hf|oci)://[^\s]+$"
OUTPUT_PATTERN = r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\s]*)?$|^(s3|gs|az|hf|oci)://[^\s]+$"
OBJECT_STORES = frozenset({"s3", "gs", "az"})
"""Schemes of places that have folders, which two jobs must not share by accident."""
SOURCE_SCHEMES = (
    "hf://, pkg://, pvc://claim/path, s3://, gs://, az://, https://, file:///absolute/path, "
    "or ./path with `finetune run`"
)


def as_text(value: Any) -> Any:
    """Quantities may be written as numbers, as everywhere in Kubernetes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


INT_OR_STRING = {"x-kubernetes-int-or-string": True}
ObjectName = Annotated[str, StringConstraints(pattern=SUBDOMAIN_PATTERN, max_length=253)]
Quantity = Annotated[
    str,
    BeforeValidator(as_text),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema({**INT_OR_STRING, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
ProcessCount = Annotated[
    Annotated[int, Field(ge=1, le=64)] | Literal["auto"],
    WithJsonSchema(
        {
            **INT_OR_STRING,
            "maxLength": 4,
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) == int ? self >= 1 && self <= 64 : self == 'auto'",
                    "message": "use a number from 1 to 64, or auto",
                }
            ],
        }
    ),
]
SourceUri = Annotated[
    str,
    StringConstraints(pattern=URI_PATTERN, max_length=1024),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": URI_PATTERN,
            "maxLength": 1024,
            "x-kubernetes-validations": [
                {"rule": "!self.startsWith('./')", "message": "./path works with `finetune run` only"}
            ],
        }
    ),
]
VolumeUri = Annotated[str, StringConstraints(pattern=VOLUME_PATTERN, max_length=1024)]
PushUri = Annotated[str, StringConstraints(pattern=PUSH_PATTERN, max_length=1024)]
OutputUri = Annotated[str, StringConstraints(pattern=OUTPUT_PATTERN, max_length=1024)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Reference(Document):
    """An object in the job's namespace."""

    name: ObjectName = Field(description="Name of the object.")


def uri_scheme(uri: str) -> str:
    """`pvc` of `pvc://claim/path`; empty for a relative path."""
    match = re.match(r"^([a-z][a-z0-9]*)://", uri)
    return match.group(1) if match else ""


def split_volume_uri(uri: str) -> tuple[str, str]:
    """(claim, path without slashes at its ends) of `pvc://claim/path`."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path.strip("/")
