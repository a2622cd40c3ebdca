"""`python -m support.cluster`: builds, starts and stops the test cluster."""

import argparse
import sys
from collections.abc import Callable

from support.cluster import buildah, preflight
from support.cluster.build import build
from support.cluster.cluster import Cluster
from support.cluster.packages import install_packages, missing_packages
from support.cluster.process import CommandFailed, ComponentFailed

SPARE_VOLUMES = 3


def main() -> int:
    """Carries out the command line; returns the exit status."""
    options = _parser().parse_args()
    command: Callable[[argparse.Namespace, Cluster], int] = options.command
    try:
        return command(options, Cluster())
    except (CommandFailed, ComponentFailed, preflight.PreflightFailed) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m support.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace, Cluster], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(command=command)
        return added

    add("preflight", _preflight, "say what this machine lacks")
    add("build", _build, "build the cluster's programs into the cache")
    up = add("up", _up, "start the cluster, or leave it as it is where it runs")
    up.add_argument("--with-operator", action="store_true", help="build the images and install the chart too")
    up.add_argument("--internet", action="store_true", help="let pods reach what this machine reaches")
    add("down", _down, "stop the cluster and leave the machine as it was")
    add("status", _status, "say which programs run")
    add("images", _images, "build both images and put them on the node, which keeps them")
    add("load", _load, "push an image of buildah's storage to the node's registry").add_argument("image")
    return parser


def _preflight(_: argparse.Namespace, cluster: Cluster) -> int:
    preflight.require(cluster.layout)
    missing = missing_packages()
    print(
        "This machine can run the test cluster." + (f" apt-get will install {', '.join(missing)}." if missing else "")
    )
    return 0


def _build(_: argparse.Namespace, cluster: Cluster) -> int:
    preflight.require(cluster.layout)
    install_packages()
    print("\n".join(str(directory) for directory in build(cluster.layout).directories))
    return 0


def _up(options: argparse.Namespace, cluster: Cluster) -> int:
    cluster.start(internet=options.internet)
    if options.with_operator:
        cluster.install_operator()
        cluster.offer_volumes(SPARE_VOLUMES)
    print(_usage(cluster, options.with_operator))
    return 0


def _down(_: argparse.Namespace, cluster: Cluster) -> int:
    cluster.stop()
    return 0


def _status(_: argparse.Namespace, cluster: Cluster) -> int:
    for daemon in cluster.daemons:
        print(f"{daemon.name:26}{f'pid {daemon.pid}' if daemon.pid else 'not running'}")
    ready = cluster.running()
    print("the cluster is ready" if ready else "the cluster is not ready")
    return 0 if ready else 3


def _images(_: argparse.Namespace, cluster: Cluster) -> int:
    with cluster.started():
        loaded = cluster.images()
    print(f"{loaded.operator}\n{loaded.trainer}")
    return 0


def _load(options: argparse.Namespace, cluster: Cluster) -> int:
    name = options.image.rpartition("/")[2]
    print(buildah.push(cluster.layout, options.image, name))
    return 0


def _usage(cluster: Cluster, with_operator: bool) -> str:
    kubectl = cluster.program("kubectl")
    lines = [
        "The cluster is up. To use it:",
        f"  export KUBECONFIG={cluster.kubeconfig} PATH={kubectl.parent}:{cluster.program('helm').parent}:$PATH",
        "  kubectl get nodes",
    ]
    if with_operator:
        lines += [
            "  kubectl apply -f examples/quickstart/volume.yaml -f examples/quickstart/job.yaml",
            "  kubectl get ftj --watch",
            f"What a job writes to its volume lies below {cluster.layout.volumes}.",
        ]
    return "\n".join([*lines, "To stop it and remove what its volumes hold:", "  make cluster-down"])


if __name__ == "__main__":
    sys.exit(main())
