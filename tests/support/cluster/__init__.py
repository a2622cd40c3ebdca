"""A real Kubernetes cluster on a bare Debian machine, for tests and for playing.

The control plane is built from pinned Go modules, the node runs in namespaces of its own, and the images come from the
repository's Dockerfile. `python -m support.cluster` is the command; `Cluster` is the interface for tests, and
`NamedCluster` the same for a cluster that a person names.
"""

from support.cluster.access import Access, Claim, Images
from support.cluster.cluster import Cluster
from support.cluster.named import NamedCluster

__all__ = ["Access", "Claim", "Cluster", "Images", "NamedCluster"]
