"""Leader election by a Lease: one operator works, another waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.names import LABEL_MANAGED_BY, MANAGER
from finetune_operator.shell.cluster import LEASE, Cluster, Manifest
from finetune_operator.shell.errors import ClusterError, Conflict

log = logging.getLogger(__name__)

LEASE_NAME = MANAGER
DURATION_SECONDS = 15
RENEW_SECONDS = 5.0
POLL_SECONDS = 2.0


class LeadershipLost(Exception):
    """Another operator may work now: stop at once."""


@dataclass
class Lease:
    """The right to work. `clock` gives seconds that never go back; the holder's clock is never compared with ours."""

    cluster: Cluster
    namespace: str
    identity: str
    clock: Callable[[], float]
    _seen: tuple[str | None, str | None] = (None, None)
    _seen_at: float = 0.0
    _renewed_at: float = 0.0

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        waiting = False
        while not await self.attempt():
            if not waiting:
                log.info("waiting for the lease of %s", self._seen[0])
                waiting = True
            await asyncio.sleep(POLL_SECONDS)

    async def keep(self) -> None:
        """Renew for ever. Raises LeadershipLost when that failed for as long as the lease lasts."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not await self.attempt() and self.clock() - self._renewed_at > DURATION_SECONDS - RENEW_SECONDS:
                raise LeadershipLost(f"the lease {self.namespace}/{LEASE_NAME} could not be renewed")

    async def release(self) -> None:
        """Let the next operator start at once."""
        try:
            lease = await self.cluster.get(LEASE, self.namespace, LEASE_NAME)
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                await self.cluster.replace(LEASE, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except ClusterError as error:
            log.warning("the lease could not be released: %s", error)

    async def attempt(self) -> bool:
        """Take or renew the lease once; whether it is ours now."""
        try:
            taken = await self._take()
        except Conflict:
            return False
        except ClusterError as error:
            log.warning("the lease could not be read or written: %s", error)
            return False
        if taken:
            self._renewed_at = self.clock()
        return taken

    async def _take(self) -> bool:
        lease = await self.cluster.get(LEASE, self.namespace, LEASE_NAME)
        if lease is None:
            await self.cluster.create(LEASE, self._manifest())
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if holder and holder != self.identity and not self._expired(holder, spec.get("renewTime")):
            return False
        changes = int(spec.get("leaseTransitions") or 0) + (holder != self.identity)
        await self.cluster.replace(LEASE, {**lease, "spec": {**self._spec(), "leaseTransitions": changes}})
        return True

    def _expired(self, holder: str, renewed: str | None) -> bool:
        """Whether the holder has not renewed for as long as we have watched it."""
        if (holder, renewed) != self._seen:
            self._seen, self._seen_at = (holder, renewed), self.clock()
        return self.clock() - self._seen_at > DURATION_SECONDS

    def _manifest(self) -> Manifest:
        metadata = {"name": LEASE_NAME, "namespace": self.namespace, "labels": {LABEL_MANAGED_BY: MANAGER}}
        return {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": self._spec()}

    def _spec(self) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self.identity, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now}
