"""Building and pushing images with buildah, its storage in the cache."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.cluster.layout import REGISTRY, REPOSITORY, Layout
from support.cluster.process import disk_usage, run, say, succeeds

BASE_IMAGE = "docker.io/library/debian:bookworm-slim"
BASE_SUITE = "bookworm"
STORAGE_LIMIT = 20 * 10**9

# Package indexes may be reached through a certificate authority that only this machine knows.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CERTIFICATES_INSIDE = "/run/ca.pem"
CERTIFICATE_OPTIONS = (
    f"--volume={CERTIFICATES}:{CERTIFICATES_INSIDE}:ro",
    f"--build-arg=PIP_CERT={CERTIFICATES_INSIDE}",
    f"--build-arg=SSL_CERT_FILE={CERTIFICATES_INSIDE}",
)


def build(layout: Layout, target: str, name: str, arguments: Sequence[str]) -> None:
    """Builds a target of the repository's Dockerfile under a name, in place of its earlier builds."""
    say(f"building the {target} image")
    _bound_storage(layout)
    _make_base(layout)
    options = ["--layers", "--pull-never", f"--target={target}", *(f"--build-arg={argument}" for argument in arguments)]
    certificates = CERTIFICATE_OPTIONS if CERTIFICATES.exists() else ()
    _build(layout, name, REPOSITORY, *options, *certificates)
    _remove_earlier(layout, name)


def push(layout: Layout, name: str, repository_and_tag: str) -> str:
    """Pushes an image of the storage to the cluster's registry and returns the reference to pull it by."""
    reference = f"{REGISTRY}/{repository_and_tag}"
    fast = ["--compression-format=zstd", "--compression-level=1"]
    _buildah(layout, "push", "--quiet", *fast, "--tls-verify=false", name, f"docker://{reference}")
    return reference


def build_archive(layout: Layout, name: str, program: Path, directory: Path) -> Path:
    """Builds an image of one static program into an archive in the directory, and returns its path."""
    build_program(layout, name, program, directory, installed_as=program.name)
    archive = directory / "image.tar"
    _buildah(layout, "push", "--quiet", name, f"docker-archive:{archive}:{name}")
    return archive


def build_program(layout: Layout, name: str, program: Path, directory: Path, *, installed_as: str) -> None:
    """Builds an image that holds one static program and nothing else; the directory is its context."""
    shutil.copy(program, directory / installed_as)
    dockerfile = f'FROM scratch\nCOPY {installed_as} /{installed_as}\nENTRYPOINT ["/{installed_as}"]\n'
    (directory / "Dockerfile").write_text(dockerfile)
    _build(layout, name, directory)


def _build(layout: Layout, name: str, context: Path, *options: str) -> None:
    _buildah(layout, "bud", "--isolation=chroot", f"--tag={name}", *options, str(context))


def _make_base(layout: Layout) -> None:
    """Makes the image that the Dockerfile starts from out of Debian's packages, where no registry can be reached."""
    if succeeds([*_command(layout), "inspect", "--type=image", BASE_IMAGE]):
        return
    say(f"making {BASE_IMAGE}")
    with tempfile.TemporaryDirectory(dir=layout.cache) as root:
        run(["debootstrap", "--variant=minbase", BASE_SUITE, root])
        shutil.rmtree(Path(root, "var/cache/apt"))
        container = _buildah(layout, "from", "scratch").strip()
        _buildah(layout, "add", "--quiet", container, root, "/")
        _buildah(layout, "config", "--cmd=/bin/bash", container)
        _buildah(layout, "commit", "--quiet", "--rm", container, BASE_IMAGE)


def _remove_earlier(layout: Layout, name: str) -> None:
    """Removes earlier builds from the storage, with those of their layers that this one does not share."""
    repository = name.rpartition(":")[0]
    filtered = ["--filter", f"reference={repository}", "--format", "{{.Name}}:{{.Tag}}"]
    for earlier in _buildah(layout, "images", *filtered).split():
        if earlier != name:
            _buildah(layout, "rmi", earlier)


def _bound_storage(layout: Layout) -> None:
    """Starts again with nothing where the layers that no image has any more have grown too large."""
    if layout.containers.exists() and disk_usage(layout.containers) > STORAGE_LIMIT:
        _buildah(layout, "rmi", "--all", "--force")


def _buildah(layout: Layout, *arguments: str) -> str:
    temporary = layout.cache / "tmp"
    _share_package_cache(temporary)
    return run([*_command(layout), *arguments], env={"TMPDIR": str(temporary)})


def _command(layout: Layout) -> list[str]:
    roots = [f"--root={layout.containers}", f"--runroot={layout.cache / 'containers-run'}"]
    return ["buildah", *roots, "--storage-driver=overlay"]


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
