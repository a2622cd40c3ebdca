"""The operator's and the trainer's image: built from the Dockerfile, pushed to the registry, pulled by the node."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.cluster import node, registry
from support.cluster.access import Images
from support.cluster.build import Programs
from support.cluster.layout import REGISTRY, REPOSITORY, Layout
from support.cluster.process import run, say, succeeds

BASE_IMAGE = "docker.io/library/debian:bookworm-slim"
BASE_SUITE = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CERTIFICATES_INSIDE = "/run/ca.pem"
BUILD_FILES = ("Dockerfile", ".dockerignore", "pyproject.toml", "requirements.lock")
STORAGE_LIMIT = 20 * 10**9
REGISTRY_LIMIT = 10 * 10**9
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


def load(layout: Layout, pull: Callable[[str], None]) -> Images:
    """Both images, built and pushed where their inputs have changed and pulled where the node lacks them."""
    operator, trainer = (_ensure_pushed(layout, target) for target in (OPERATOR, TRAINER))
    present = node.images(layout)
    for reference in {operator, trainer} - set(present):
        pull(reference)
    for stale in _stale(present, (operator, trainer)):
        node.remove_image(layout, stale)
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
        _bound_caches(layout)
        push(layout, build(layout, target, tag), repository_and_tag)
    return f"{REGISTRY}/{repository_and_tag}"


def _bound_caches(layout: Layout) -> None:
    """Starts again with nothing where what earlier builds left has grown too large."""
    if _size(layout.containers) > STORAGE_LIMIT:
        _buildah(layout, "rmi", "--all", "--force")
    if _size(layout.registry) > REGISTRY_LIMIT:
        registry.empty(layout)


def _size(directory: Path) -> int:
    done = run(["du", "--summarize", "--block-size=1", directory]) if directory.exists() else "0"
    return int(done.split()[0])


def build(layout: Layout, target: Target, tag: str) -> str:
    """Builds a target of the Dockerfile and returns the image's name in buildah's storage."""
    say(f"building the {target.name} image")
    _make_base(layout)
    name = f"localhost/{target.repository}:{tag}"
    arguments = [f"--build-arg={argument}" for argument in (*_certificate_arguments(), *target.arguments)]
    volume = [f"--volume={CERTIFICATES}:{CERTIFICATES_INSIDE}:ro"] if CERTIFICATES.exists() else []
    options = ["--isolation=chroot", "--layers", "--pull-never", f"--target={target.name}", f"--tag={name}"]
    _buildah(layout, "bud", *options, *volume, *arguments, str(REPOSITORY))
    _remove_earlier(layout, name)
    return name


def _remove_earlier(layout: Layout, name: str) -> None:
    """Removes earlier builds from buildah's storage, with those of their layers that this one does not share."""
    repository = name.rpartition(":")[0]
    filtered = ["--filter", f"reference={repository}", "--format", "{{.Name}}:{{.Tag}}"]
    for earlier in _buildah(layout, "images", *filtered).split():
        if earlier != name:
            _buildah(layout, "rmi", earlier)


def _certificate_arguments() -> tuple[str, ...]:
    """Package indexes may be reached through a certificate authority that only this machine knows."""
    if not CERTIFICATES.exists():
        return ()
    return (f"PIP_CERT={CERTIFICATES_INSIDE}", f"SSL_CERT_FILE={CERTIFICATES_INSIDE}")


def push(layout: Layout, name: str, repository_and_tag: str) -> str:
    """Pushes an image of buildah's storage to the registry and returns the reference to pull it by."""
    reference = f"{REGISTRY}/{repository_and_tag}"
    fast = ["--compression-format=zstd", "--compression-level=1"]
    _buildah(layout, "push", "--quiet", *fast, "--tls-verify=false", name, f"docker://{reference}")
    return reference


def import_pause(layout: Layout, programs: Programs) -> None:
    """Gives the node the image that holds a pod's namespaces; it comes from no registry."""
    if node.PAUSE_IMAGE in node.images(layout):
        return
    with tempfile.TemporaryDirectory() as context:
        shutil.copy(programs["pause"], context)
        Path(context, "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        _buildah(layout, "bud", "--isolation=chroot", f"--tag={node.PAUSE_IMAGE}", context)
        archive = Path(context, "pause.tar")
        _buildah(layout, "push", "--quiet", node.PAUSE_IMAGE, f"docker-archive:{archive}:{node.PAUSE_IMAGE}")
        node.ctr(layout, "images", "import", str(archive))


def _make_base(layout: Layout) -> None:
    """Makes the image that the Dockerfile starts from out of Debian's packages, where no registry can be reached."""
    if succeeds([*_storage(layout), "inspect", "--type=image", BASE_IMAGE]):
        return
    say(f"making {BASE_IMAGE}")
    with tempfile.TemporaryDirectory(dir=layout.cache) as root:
        run(["debootstrap", "--variant=minbase", BASE_SUITE, root])
        shutil.rmtree(Path(root, "var/cache/apt"))
        container = _buildah(layout, "from", "scratch").strip()
        _buildah(layout, "add", "--quiet", container, root, "/")
        _buildah(layout, "config", "--cmd=/bin/bash", container)
        _buildah(layout, "commit", "--quiet", "--rm", container, BASE_IMAGE)


def _storage(layout: Layout) -> list[str]:
    roots = [f"--root={layout.containers}", f"--runroot={layout.cache / 'containers-run'}"]
    return ["buildah", *roots, "--storage-driver=overlay"]


def _buildah(layout: Layout, *arguments: str) -> str:
    temporary = layout.cache / "tmp"
    _share_package_cache(temporary)
    return run([*_storage(layout), *arguments], env={"TMPDIR": str(temporary)})


def _share_package_cache(temporary: Path) -> None:
    """Lets the builds' cache of packages be uv's own cache on this machine, so that nothing is downloaded twice.

    buildah keeps cache mounts in buildah-cache or, since 1.29, buildah-cache-<uid> under TMPDIR.
    """
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    packages = Path(os.environ.get("UV_CACHE_DIR") or Path(user_cache) / "uv")
    packages.mkdir(parents=True, exist_ok=True)
    for parent in (temporary / "buildah-cache", temporary / f"buildah-cache-{os.getuid()}"):
        parent.mkdir(parents=True, exist_ok=True)
        if not (parent / "uv").exists():
            (parent / "uv").symlink_to(packages)
