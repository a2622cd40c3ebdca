"""The progress server: takes Kubeflow Trainer's status reports, which transformers sends by itself.

POST /apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status, at most 64 kB of JSON, a
projected token of the pod as bearer. Answers with the JSON it understood; errors are Kubernetes Status objects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import ValidationError

from finetune_api.names import LABEL_ATTEMPT, LABEL_RUN, PROGRESS_PATH
from finetune_api.progress import ProgressReport
from finetune_operator.core.report import Report, read_report
from finetune_operator.shell.cluster import JOB, POD, Manifest
from finetune_operator.shell.errors import ClusterError
from finetune_operator.shell.metrics import Metrics
from finetune_operator.shell.store import Key, Store
from finetune_operator.shell.tokens import BadToken, Sender, TokenVerifier

MAX_BODY_BYTES = 64 * 1024
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    503: "ServiceUnavailable",
}

TakeReport = Callable[[Key, Report], Awaitable[None]]


class ProgressServer:
    def __init__(self, verifier: TokenVerifier, store: Store, take: TakeReport, metrics: Metrics) -> None:
        self._verifier = verifier
        self._store = store
        self._take = take
        self._metrics = metrics

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._answer_errors])
        application.router.add_post(PROGRESS_PATH, self._handle)
        return application

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _status(error.status, error.text or error.reason)
        self._metrics.reports.labels(str(response.status)).inc()
        return response

    async def _handle(self, request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        sender = await self._sender(request)
        pod = self._pod(key, sender)
        body = await request.read()
        labels = pod["metadata"]["labels"]
        try:
            report = read_report(body, int(labels[LABEL_RUN]), int(labels[LABEL_ATTEMPT]))
            understood = ProgressReport.model_validate_json(body).to_dict()
        except (ValidationError, ValueError) as error:
            raise web.HTTPUnprocessableEntity(text=f"the body is no progress report: {error}") from error
        await self._take(key, report)
        return web.json_response(understood)

    async def _sender(self, request: web.Request) -> Sender:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise web.HTTPUnauthorized(text="send the pod's token: Authorization: Bearer …")
        try:
            return await self._verifier.verify(token)
        except BadToken as error:
            raise web.HTTPUnauthorized(text=str(error)) from error
        except ClusterError as error:
            raise web.HTTPServiceUnavailable(text=f"the cluster's keys could not be read: {error}") from error

    def _pod(self, key: Key, sender: Sender) -> Manifest:
        """The sender's pod, which must be a live one of this job."""
        if sender.namespace != key.namespace:
            raise web.HTTPForbidden(text=f"the token is of namespace {sender.namespace}")
        if self._store.get(JOB, key) is None:
            raise web.HTTPNotFound(text=f"there is no FineTuneJob {key}")
        for pod in self._store.children(POD, key):
            if pod["metadata"]["uid"] == sender.uid and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                return pod
        raise web.HTTPForbidden(text=f"pod {sender.pod} is no running pod of FineTuneJob {key}")


def _status(code: int, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": REASONS.get(code, "InternalError"),
        "code": code,
    }
    return web.json_response(body, status=code)
