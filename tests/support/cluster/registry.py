"""A registry for images on the bridge, so that only an image's changed layers travel to the node."""

import shutil
import urllib.error
import urllib.request

import yaml

from support.cluster.build import Programs
from support.cluster.layout import REGISTRY, Layout
from support.cluster.process import Daemon, disk_usage

LIMIT = 10 * 10**9


def daemon(layout: Layout) -> Daemon:
    """The registry's program."""
    return Daemon("registry", layout.run)


def start(layout: Layout, programs: Programs) -> None:
    """Starts the registry; what it holds outlives the cluster."""
    configuration = layout.config / "registry.yaml"
    content = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(layout.registry)}, "delete": {"enabled": True}},
        "http": {"addr": REGISTRY},
    }
    configuration.write_text(yaml.safe_dump(content))
    daemon(layout).start(["env", "OTEL_TRACES_EXPORTER=none", programs["registry"], "serve", configuration])
    daemon(layout).await_ready(lambda: _answers("v2/"), seconds=10)


def holds(repository: str, tag: str) -> bool:
    """Whether the registry has this image."""
    return _answers(f"v2/{repository}/manifests/{tag}")


def ever_held(layout: Layout, repository: str) -> bool:
    """Whether an image of the repository was pushed since the registry was last emptied; it need not run."""
    return (layout.registry / "docker/registry/v2/repositories" / repository).exists()


def bound(layout: Layout) -> None:
    """Removes every image where they have grown too large; the registry keeps no memory of them."""
    blobs = layout.registry / "docker"
    if blobs.exists() and disk_usage(blobs) > LIMIT:
        shutil.rmtree(blobs)


def _answers(path: str) -> bool:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    request = urllib.request.Request(f"http://{REGISTRY}/{path}", headers=accept, method="HEAD")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
