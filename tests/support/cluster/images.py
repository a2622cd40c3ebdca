"""The operator's and the trainer's image: built when their inputs change, and put on the node."""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.cluster import buildah, node, registry
from support.cluster.access import Images
from support.cluster.build import Programs
from support.cluster.layout import REGISTRY, REPOSITORY, Layout, Node

BUILD_FILES = ("Dockerfile", ".dockerignore", "pyproject.toml", "requirements.lock")
SOURCES = ("api", "cli", "examples", "operator", "trainer")


@dataclass(frozen=True)
class Target:
    """A target of the Dockerfile, with the build arguments that the tests' image has."""

    name: str
    arguments: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        return f"finetune-{self.name}"


OPERATOR = Target("operator")
TRAINER = Target("trainer", ("EXAMPLES=1",))


def source_key(target: Target, repository: Path = REPOSITORY) -> str:
    """A hash over everything that goes into the image; its tag."""
    digest = hashlib.sha256(repr(target).encode())
    for path in _inputs(repository):
        digest.update(f"{path.relative_to(repository)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _inputs(repository: Path) -> Iterator[Path]:
    yield from (repository / name for name in BUILD_FILES)
    for source in SOURCES:
        files = (path for path in (repository / source).rglob("*") if path.is_file())
        yield from sorted(path for path in files if "__pycache__" not in path.parts)


def load(place: Node, pull: Callable[[str], None]) -> Images:
    """Both images, built and pushed where their inputs have changed and pulled where the node lacks them."""
    operator, trainer = (_ensure_pushed(place.layout, target) for target in (OPERATOR, TRAINER))
    present = node.images(place)
    for reference in {operator, trainer} - set(present):
        pull(reference)
    for stale in _stale(present, (operator, trainer)):
        node.remove_image(place, stale)
    return Images(operator, trainer)


def _stale(present: Iterable[str], current: Collection[str]) -> list[str]:
    """Those images on the node that are earlier builds of the current ones."""
    repositories = tuple(reference.rpartition(":")[0] + ":" for reference in current)
    return [reference for reference in present if reference.startswith(repositories) and reference not in current]


def _ensure_pushed(layout: Layout, target: Target) -> str:
    """Puts the image of the present sources into the registry, and returns its reference."""
    tag = source_key(target)
    repository_and_tag = f"{target.repository}:{tag}"
    if not registry.holds(target.repository, tag):
        name = f"localhost/{repository_and_tag}"
        buildah.build(layout, target.name, name, target.arguments)
        registry.bound(layout)
        buildah.push(layout, name, repository_and_tag)
    return f"{REGISTRY}/{repository_and_tag}"


def import_pause(place: Node, programs: Programs) -> None:
    """Gives the node the image that holds a pod's namespaces; it comes from no registry."""
    if node.PAUSE_IMAGE not in node.images(place):
        with tempfile.TemporaryDirectory() as directory:
            archive = buildah.build_archive(place.layout, node.PAUSE_IMAGE, programs["pause"], Path(directory))
            node.ctr(place, "images", "import", str(archive))
