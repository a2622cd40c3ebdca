"""Jobs whose training is a few lines of Python: they start within a second, and do what a test is about."""

from __future__ import annotations

from typing import Any

from support.cluster.access import Object
from support.example_jobs import quickstart

REPORT = """
import json, os, ssl, time, urllib.request
def report(step):
    metrics = [{"name": "step", "value": str(step)}, {"name": "loss", "value": "1.5"}]
    body = json.dumps({"trainerStatus": {"progressPercentage": step, "metrics": metrics}}).encode()
    token = open(os.environ["KUBEFLOW_TRAINER_SERVER_TOKEN"]).read()
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["KUBEFLOW_TRAINER_SERVER_URL"], body, headers)
    context = ssl.create_default_context(cafile=os.environ["KUBEFLOW_TRAINER_SERVER_CA_CERT"])
    urllib.request.urlopen(request, context=context)
"""
"""Tells the operator of a step, by the protocol and without any library."""


def program(name: str, code: str, *, nodes: int = 1, **changes: dict[str, Any] | None) -> Object:
    """A job whose training is a few lines of Python; they end as soon as they are told to stop."""
    command = ["python3", "-c", code]
    resources = {"nodes": nodes, "cpu": "100m"} | (changes.pop("resources", None) or {})
    # A shell would pass no signal on, and Python as the first process does not end by SIGTERM without a handler.
    stop = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    command[2] = stop + code
    manifest = quickstart(name, **changes)
    manifest["spec"] |= {"trainer": {"framework": "custom", "command": command}, "resources": resources}
    return manifest
