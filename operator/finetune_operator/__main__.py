"""`python -m finetune_operator`: read the environment, connect, lead, work."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

import uvloop
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from finetune_operator.shell import cluster, logs
from finetune_operator.shell.lease import Lease
from finetune_operator.shell.metrics import Metrics, StoreCollector
from finetune_operator.shell.operator import Operator, lead
from finetune_operator.shell.settings import Settings


async def serve(settings: Settings) -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    async with await cluster.connect(settings.kubeconfig) as client:
        api = cluster.ApiCluster(client, metrics.count_request)
        operator = Operator(settings, api, metrics)
        registry.register(StoreCollector(operator.store, operator.queue))
        start_http_server(settings.metrics_port, registry=registry)
        lease = Lease(api, settings.namespace, settings.identity, time.monotonic)
        await lead(operator, lease if settings.leader_election else None)


def main() -> int:
    try:
        settings = Settings.from_env(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except Exception:
        logging.getLogger(__package__).exception("the operator stopped")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
