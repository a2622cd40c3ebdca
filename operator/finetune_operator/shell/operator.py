"""The operator's parts, put together and kept running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import kopf
from aiohttp import web

from finetune_operator.core.pod import Endpoint
from finetune_operator.core.report import Report
from finetune_operator.program import launcher
from finetune_operator.shell import errors, handlers, tls
from finetune_operator.shell.cluster import BATCH_JOB, JOB, MANAGED, POD, RUNTIME, WORKLOAD, Cluster, Kind, Manifest
from finetune_operator.shell.discovery import Changed, discover
from finetune_operator.shell.lease import Lease
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.progress import ProgressServer
from finetune_operator.shell.queue import WorkQueue
from finetune_operator.shell.reconcile import Reconciler
from finetune_operator.shell.settings import Settings
from finetune_operator.shell.store import WATCHED, Key, Store, is_ours, key_of
from finetune_operator.shell.tls import Certificates
from finetune_operator.shell.tokens import TokenVerifier

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0
WATCH_LAG_SECONDS = 5.0
"""How long a watch may take to tell what a list shows already."""
RENEWAL_CHECK_SECONDS = 24 * 3600.0
STUCK_SECONDS = 120.0


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Operator:
    """Everything that runs while this process leads."""

    settings: Settings
    cluster: Cluster
    metrics: Metrics
    store: Store = field(default_factory=Store)
    queue: WorkQueue[Key] = field(default_factory=lambda: WorkQueue(time.monotonic, random.random))
    optional: frozenset[Kind] = frozenset()
    """Kinds of other projects that the cluster served when we began."""
    _resynced_at: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Work until the process is told to stop. Raises when a part fails: a fresh start is cheap and clean."""
        self.optional = await discover(self.cluster)
        certificates = await tls.ensure(self.cluster, self.settings, datetime.now(UTC))
        reconciler = self.reconciler(certificates)
        await self.resync(lag=0.0)
        log.info("serving %s, %d jobs known", self.settings.served_namespaces or "all namespaces", self._known_jobs())
        async with self._progress_server(reconciler, certificates) as context, asyncio.TaskGroup() as group:
            parts = [self._work(reconciler) for _ in range(self.settings.workers)]
            parts += [self._resync_for_ever(), self._renew_for_ever(context, reconciler)]
            tasks = [group.create_task(part) for part in parts]
            await self._watch()
            for task in tasks:
                task.cancel()

    def reconciler(self, certificates: Certificates) -> Reconciler:
        endpoint = self._endpoint(certificates)
        return Reconciler(
            self.cluster, self.store, self.metrics, endpoint, self.settings.namespace, utc_now, self.optional
        )

    def _endpoint(self, certificates: Certificates) -> Endpoint:
        return Endpoint(self.settings.progress_url, certificates.ca.decode(), launcher())

    @property
    def watched(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in WATCHED if kind is not WORKLOAD or kind in self.optional)

    def _known_jobs(self) -> int:
        return sum(1 for _ in self.store.all(JOB))

    async def _watch(self) -> None:
        namespaces = self.settings.served_namespaces
        await kopf.operator(
            registry=handlers.registry(self.settings, self.on_event, self.trouble, self.watched),
            settings=handlers.kopf_settings(),
            clusterwide=not namespaces,
            namespaces=namespaces,
            liveness_endpoint=f"http://0.0.0.0:{self.settings.health_port}/healthz",
        )

    async def on_event(self, kind: Kind, type_: str | None, body: Manifest) -> None:
        """Remember what a watch tells, and look at the jobs that it matters to."""
        self.metrics.last_event.labels(kind.plural).set_to_current_time()
        if not is_ours(kind, body):
            return
        if type_ == "DELETED":
            self.store.remove(kind, body)
        elif not self.store.put(kind, body):
            return
        await self._look_at(kind, {key_of(kind, body)})

    async def _look_at(self, kind: Kind, keys: set[Key]) -> None:
        if kind is RUNTIME:
            keys = {key_of(JOB, body) for body in self.store.all(JOB) if not body["status"].get("attempt")}
        for key in keys:
            await self.queue.add(key)

    async def _work(self, reconciler: Reconciler) -> None:
        while True:
            key = await self.queue.get()
            started = time.perf_counter()
            result = await self.work_on(reconciler, key)
            self.metrics.reconcile_seconds.labels(result).observe(time.perf_counter() - started)

    async def work_on(self, reconciler: Reconciler, key: Key) -> str:
        """One pass over a job; returns its result for the metrics."""
        try:
            await self.queue.done(key, await reconciler.reconcile(key))
        except (errors.Conflict, errors.NotFound):
            return await self._start_over(reconciler, key)
        except errors.Unreachable as error:
            delay = await self.queue.retry(key, error.retry_after or 0.0)
            log.warning("%s; trying again in %.1f s", error, delay, extra={"job": str(key)})
            return "unreachable"
        except Exception:
            delay = await self.queue.retry(key)
            log.exception("a pass failed; trying again in %.1f s", delay, extra={"job": str(key)})
            return "error"
        return "ok"

    async def _start_over(self, reconciler: Reconciler, key: Key) -> str:
        """What we decided from is out of date: read it again."""
        with contextlib.suppress(errors.ClusterError):
            await reconciler.refresh_job(key)
        await self.queue.retry(key)
        return "conflict"

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS * (0.8 + 0.4 * random.random()))
            try:
                if await discover(self.cluster) != self.optional:
                    raise Changed("Kueue or the coscheduling plugin was installed or removed; starting again")
                await self.resync(WATCH_LAG_SECONDS)
            except errors.ClusterError as error:
                log.warning("the periodic re-list failed: %s", error)

    async def resync(self, lag: float) -> None:
        """List everything, count and repair what the watches have not told after `lag` seconds, look at every job."""
        for kind in self.watched:
            selector = MANAGED if kind in (BATCH_JOB, POD) else ""
            for namespace in self.settings.served_namespaces or (None,):
                listing = await self.cluster.list(kind, namespace, selector)
                await asyncio.sleep(lag)
                repaired = self.store.replace(kind, listing, within=namespace)
                if lag:
                    self.metrics.repairs.labels(kind.plural).inc(len(repaired))
        self._resynced_at = time.monotonic()
        await self._look_at(JOB, {key_of(JOB, body) for body in self.store.all(JOB)})

    @contextlib.asynccontextmanager
    async def _progress_server(
        self, reconciler: Reconciler, certificates: Certificates
    ) -> AsyncIterator[ssl.SSLContext]:
        async def take(key: Key, report: Report) -> None:
            await self.queue.add(key, reconciler.take_report(key, report))

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load(context, certificates)
        server = ProgressServer(TokenVerifier(self.cluster, time.monotonic), self.store, take, self.metrics)
        runner = web.AppRunner(server.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=self.settings.progress_port, ssl_context=context).start()
        try:
            yield context
        finally:
            await runner.cleanup()

    async def _renew_for_ever(self, context: ssl.SSLContext, reconciler: Reconciler) -> None:
        while True:
            await asyncio.sleep(RENEWAL_CHECK_SECONDS)
            try:
                certificates = await tls.ensure(self.cluster, self.settings, datetime.now(UTC))
            except errors.ClusterError as error:
                log.warning("the certificate could not be checked: %s", error)
                continue
            tls.load(context, certificates)
            reconciler.endpoint = self._endpoint(certificates)

    def trouble(self) -> str | None:
        """Why this process should be started again, if it should."""
        if self.queue.oldest_age() > STUCK_SECONDS:
            return f"a job has been waiting for {self.queue.oldest_age():.0f} s"
        if time.monotonic() - self._resynced_at > 4 * RESYNC_SECONDS:
            return "the periodic re-list has not worked for a long time"
        return None


async def lead(operator: Operator, lease: Lease | None) -> None:
    """Run the operator while holding the lease."""
    if lease is None:
        await operator.run()
        return
    await lease.acquire()
    keeping = asyncio.ensure_future(lease.keep())
    running = asyncio.ensure_future(operator.run())
    try:
        await asyncio.wait({keeping, running}, return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            running.cancel()
            keeping.result()
        running.result()
    finally:
        keeping.cancel()
        if running.done():
            await lease.release()
