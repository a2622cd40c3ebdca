"""Where a run's model is pushed to: what the manifest names, and what must be known of a place before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from finetune_api.fields import uri_scheme
from finetune_api.run import RunConfig
from finetune_trainer.data.stores import SCHEMES as STORES
from finetune_trainer.pushing.content import Content

HUB, REGISTRY = "hf", "oci"
SCHEMES = (*STORES, HUB, REGISTRY)
SECRET_FIELD = "spec.output.secretRef"


@dataclass(frozen=True)
class Place:
    """One place, and the field of the manifest that names it."""

    uri: str
    field: str
    whole: bool = False
    """Whether it stands in place of a volume, and gets all that a run's folder has, not only what a model needs."""

    @property
    def scheme(self) -> str:
        return uri_scheme(self.uri)


@dataclass(frozen=True)
class Pushed:
    """What a place holds now: its URI by digest or revision where it has such, and that digest."""

    uri: str
    digest: str


class Kind(Protocol):
    """How to get at places of one kind. Raises ConfigError, AuthError or Unavailable, naming the place's field."""

    def check(self, place: Place) -> None:
        """Whether the place exists and lets us write, without leaving anything there."""
        ...

    def push(self, place: Place, content: Content) -> Pushed:
        """Make the place hold `content`; what it has already is not sent again."""
        ...


def places(config: RunConfig) -> list[Place]:
    """The places of a run, that of spec.output.pushTo last; a volume is none."""
    named = [Place(config.output_uri or "", "spec.output.uri", whole=True)]
    named.append(Place(config.output.push_to or "", "spec.output.pushTo"))
    return list({place.uri: place for place in reversed(named) if place.scheme in SCHEMES}.values())[::-1]
