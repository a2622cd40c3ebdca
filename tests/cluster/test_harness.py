"""The test cluster is a real one: two pods find each other by name, write to a volume as nobody, and can be watched."""

import textwrap

import pytest

from support.cluster import Access
from support.cluster.access import Object
from support.cluster.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# Each pod serves its index over HTTP until its peer has read it, and writes what the peer said to the volume.
PROGRAM = textwrap.dedent(
    """
    import http.server, os, pathlib, threading, time, urllib.request

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(os.environ["JOB_COMPLETION_INDEX"].encode())

        def log_message(self, *_):
            pass

    threading.Thread(target=http.server.HTTPServer(("", 8080), Index).serve_forever, daemon=True).start()
    index = int(os.environ["JOB_COMPLETION_INDEX"])
    for attempt in range(120):
        try:
            answer = urllib.request.urlopen(f"http://pair-{1 - index}.pair:8080", timeout=2).read().decode()
            break
        except OSError:
            time.sleep(0.5)
    pathlib.Path(f"/volume/from-{index}").write_text(f"heard {answer} as user {os.getuid()}")
    print(f"pod {index} heard pod {answer}", flush=True)
    time.sleep(3)
    """
)


def headless_service() -> Object:
    """Names for the pods of the job, also before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "pair"},
        "spec": {"clusterIP": "None", "selector": {"job-name": "pair"}, "publishNotReadyAddresses": True},
    }


def pair_of_pods(image: str) -> Object:
    """An Indexed Job as the operator makes them: nobody, a read-only root, a volume."""
    container = {
        "name": "peer",
        "image": image,
        "command": ["python", "-c", PROGRAM],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    pod = {
        "subdomain": "pair",
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": "shared"}}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "pair"}}
    return {**job, "spec": {**spec, "template": {"spec": pod}}}


def job_ended(cluster: Access, namespace: str) -> str | None:
    """Complete or Failed, once the job is one of them."""
    job = cluster.get("job", "pair", namespace) or {}
    conditions = job.get("status", {}).get("conditions", [])
    return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), None)


def in_namespace(namespace: str, manifest: Object) -> Object:
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def test_two_pods_find_each_other_by_name_and_write_to_one_volume_as_nobody(cluster: Access, namespace: str) -> None:
    claim = cluster.create_claim(namespace, "shared")
    manifests = (headless_service(), pair_of_pods(cluster.images().operator))
    cluster.apply(*(in_namespace(namespace, manifest) for manifest in manifests))

    end = wait_for(cluster, namespace, lambda: job_ended(cluster, namespace), 120, "the job's end")

    assert end == "Complete"
    assert {path: claim.read(path) for path in claim.files()} == {
        "from-0": b"heard 1 as user 65532",
        "from-1": b"heard 0 as user 65532",
    }
    logs = cluster.kubectl("logs", f"--namespace={namespace}", "--selector=job-name=pair")
    assert sorted(logs.splitlines()) == ["pod 0 heard pod 1", "pod 1 heard pod 0"]


def test_a_pod_that_may_be_root_is_refused(cluster: Access, namespace: str) -> None:
    """The namespaces of the tests enforce the restricted standard, so whatever runs in them meets it."""
    careless = ("run", "careless", f"--namespace={namespace}", f"--image={cluster.images().operator}")
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        cluster.kubectl(*careless, "--dry-run=server")


def test_the_audit_log_tells_who_wrote_what(cluster: Access, namespace: str) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "writer"}}
    before = len(written(cluster, namespace, "admin"))
    cluster.apply(in_namespace(namespace, account))
    assert written(cluster, namespace, "admin")[before:] == ["create serviceaccounts writer"]


def written(cluster: Access, namespace: str, user: str) -> list[str]:
    """What a user changed in a namespace."""
    events = [event for event in cluster.audit_events() if (event.namespace, event.user) == (namespace, user)]
    return [f"{event.verb} {event.resource} {event.name}" for event in events if event.writes]
