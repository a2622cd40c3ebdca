"""What keeps a pod from starting: the words of kubelet, scheduler and API server, told with what would help.

The patterns are the wordings of Kubernetes 1.31 to 1.34 and of containerd. A message has its changing parts (random
names, usage at the moment) taken out: a status that repeats the same trouble is not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.progress import FailureClass
from finetune_operator.core.events import Trouble, TroubleKind
from finetune_operator.core.observe import Bucket, Pod
from finetune_operator.core.patterns import compiled, search


@dataclass(frozen=True)
class Obstacle:
    """`waits` where time alone may remove it; else a person must act."""

    class_: FailureClass
    reason: str
    message: str
    hint: str
    waits: bool = False


@dataclass(frozen=True)
class Sign:
    """A wording; `hint` may use its groups as {1}, {2}, and {namespace}, {node}."""

    pattern: str
    class_: FailureClass
    reason: str
    hint: str
    waits: bool = False


REFUSED = FailureClass.CHILD_REFUSED
REFUSALS = (
    # ResourceQuota
    Sign(
        r"exceeded quota: ([^,]+)",
        REFUSED,
        "QuotaExceeded",
        "ask for less, or for a larger quota: kubectl describe quota {1} -n {namespace}",
    ),
    Sign(
        r"failed quota: ([^:]+): must specify",
        REFUSED,
        "QuotaNeedsResources",
        "set spec.resources.cpu and memory: the quota {1} counts them",
    ),
    Sign(
        r"insufficient quota to (?:consume|match)",
        REFUSED,
        "QuotaExceeded",
        "ask the namespace's administrator for a quota: kubectl describe quota -n {namespace}",
    ),
    # LimitRanger
    Sign(
        r"(?:minimum|maximum) \S+ usage per|max limit to request ratio per",
        REFUSED,
        "LimitRangeViolated",
        "change spec.resources so that it fits: kubectl describe limitrange -n {namespace}",
    ),
    # Pod Security admission
    Sign(
        r'violates? PodSecurity "([^"]+)"',
        REFUSED,
        "PodSecurityViolated",
        "take out of spec.podTemplate what it names; the namespace allows {1}",
    ),
    # Webhooks and admission policies
    Sign(
        r'admission webhook "([^"]+)" denied',
        REFUSED,
        "WebhookDenied",
        "change what it objects to, or ask whoever runs the webhook {1}",
    ),
    Sign(
        r'failed calling webhook "([^"]+)"',
        REFUSED,
        "WebhookUnavailable",
        "ask whoever runs the webhook {1}: it does not answer; the pods are tried again",
    ),
    Sign(
        r"olicy '([^']+)'.* denied request",
        REFUSED,
        "PolicyDenied",
        "change what it objects to: kubectl describe validatingadmissionpolicy {1}",
    ),
    # Objects that the pod names
    Sign(
        r'service ?account "([^"]+)" not found',
        REFUSED,
        "ServiceAccountNotFound",
        "create it and the job starts by itself: kubectl create serviceaccount {1} -n {namespace}",
    ),
    Sign(
        r"no PriorityClass with name (\S+) was found",
        REFUSED,
        "PriorityClassNotFound",
        "name one that exists in spec.scheduling.priorityClassName: kubectl get priorityclasses",
    ),
    Sign(
        r'RuntimeClass "([^"]+)" not found',
        REFUSED,
        "RuntimeClassNotFound",
        "name one that exists in spec.podTemplate.spec.runtimeClassName: kubectl get runtimeclasses",
    ),
    Sign(
        r"because it is being terminated",
        REFUSED,
        "NamespaceTerminating",
        "apply the job to another namespace",
    ),
    Sign(
        r"cannot create resource|cannot set blockOwnerDeletion",
        REFUSED,
        "Forbidden",
        "ask the cluster's administrator: the Job controller lacks a permission",
    ),
    Sign(
        r"pods: invalid: ",
        FailureClass.CONFIG_ERROR,
        "PodInvalid",
        "correct the field, mostly in spec.podTemplate, and apply the manifest again",
    ),
    Sign(r"", REFUSED, "ChildRefused", "ask the namespace's administrator for quota or permission"),
)

MISSING = (
    # kubelet, for environment and volumes
    Sign(
        r'[sS]ecrets? "(?:[^"/]+/)?([^"]+)" not found',
        FailureClass.CONFIG_ERROR,
        "SecretNotFound",
        "create it and the job goes on by itself: kubectl create secret generic {1} -n {namespace} "
        "--from-literal=KEY=VALUE",
    ),
    Sign(
        r'config[mM]aps? "(?:[^"/]+/)?([^"]+)" not found',
        FailureClass.CONFIG_ERROR,
        "ConfigMapNotFound",
        "create it and the job goes on by itself: kubectl create configmap {1} -n {namespace} --from-file=FILE",
    ),
    Sign(
        r"couldn't find key (\S+) in (Secret|ConfigMap) [^/\s]+/(\S+)",
        FailureClass.CONFIG_ERROR,
        "KeyNotFound",
        "add the key {1} to the {2} {3} of namespace {namespace}, or name one that it has",
    ),
    Sign(
        r"references non-existent (?:secret|config) key: (\S+)",
        FailureClass.CONFIG_ERROR,
        "KeyNotFound",
        "add the key {1} to the object, or take it out of the volume's items in spec.podTemplate",
    ),
    # scheduler and kubelet
    Sign(
        r'persistentvolumeclaims? "([^"]+)" not found',
        FailureClass.CONFIG_ERROR,
        "ClaimNotFound",
        "create the claim {1} in namespace {namespace} and the job starts by itself, or name another: kubectl get pvc "
        "-n {namespace}",
    ),
    Sign(
        r'persistentvolumeclaim "([^"]+)" is being deleted|(?:claim|PVC) is being deleted',
        FailureClass.CONFIG_ERROR,
        "ClaimBeingDeleted",
        "create the claim anew, or name another: kubectl get pvc -n {namespace}",
    ),
    Sign(
        r'persistentvolumeclaim "([^"]+)" bound to non-existent persistentvolume',
        FailureClass.CONFIG_ERROR,
        "VolumeNotFound",
        "the volume of claim {1} is gone: create the claim anew, or name another",
    ),
    Sign(
        r"runAsNonRoot and image",
        FailureClass.CONFIG_ERROR,
        "RunsAsRoot",
        "use an image with a numeric user other than 0, or set spec.podTemplate.spec.securityContext.runAsUser",
    ),
)

PULLS = (
    # containerd's and the registries' words
    Sign(
        r"(?i)i/o timeout|TLS handshake timeout|connection (?:refused|reset)|deadline exceeded|unexpected EOF"
        r"|toomanyrequests|429 Too Many|server misbehaving|temporary failure|RegistryUnavailable"
        r"|\b50[0234]\b.*(?:unavailable|gateway|error)",
        FailureClass.UNAVAILABLE,
        "RegistryUnavailable",
        "the kubelet tries again; check that node {node} reaches the registry",
        waits=True,
    ),
    Sign(
        r"(?i)unauthorized|authorization failed|access denied|authentication required|no basic auth|\b40[13]\b",
        FailureClass.IMAGE_PULL,
        "",
        "check the name, and for a private registry set spec.podTemplate.spec.imagePullSecrets",
    ),
    Sign(
        r"(?i)no match for platform|exec format",
        FailureClass.IMAGE_PULL,
        "",
        "use an image for the processor of node {node}",
    ),
    Sign(
        r"InvalidImageName|(?i:invalid reference format|couldn't parse image)",
        FailureClass.IMAGE_PULL,
        "",
        "correct spec.trainer.image: registry/name:tag, in lower case",
    ),
    Sign(
        r"(?i)ErrImageNeverPull|not present with pull policy",
        FailureClass.IMAGE_PULL,
        "",
        "load the image on every node, or set imagePullPolicy: IfNotPresent",
    ),
    Sign(
        r"",
        FailureClass.IMAGE_PULL,
        "",
        "check spec.trainer.image: registry, name and tag; it is pulled again by itself",
    ),
)

MOUNTS = (
    Sign(
        r"Multi-Attach error",
        FailureClass.UNAVAILABLE,
        "VolumeInUse",
        "another node has the volume: wait for its pod to go, or use a claim with access mode ReadWriteMany",
        waits=True,
    ),
    Sign(
        r"(?i)timed ?out|deadline ?exceeded|not registered|failed to sync|PVC is not bound|not found in the list of"
        r" registered CSI drivers|operation .* already exists|connection refused|no route to host|has not been added",
        FailureClass.UNAVAILABLE,
        "VolumeNotMounted",
        "it is tried again; check the volume's driver on node {node}",
        waits=True,
    ),
    Sign(
        r"",
        FailureClass.UNAVAILABLE,
        "MountFailed",
        "check the claim, its volume, and the store's permissions: kubectl describe pvc -n {namespace}",
    ),
)

CONTAINERS = (
    Sign(
        r"(?i)deadline ?exceeded|failed to sync|not registered|failed to reserve",
        FailureClass.UNAVAILABLE,
        "ContainerNotCreated",
        "the kubelet tries again; check node {node}",
        waits=True,
    ),
    Sign(
        r"",
        FailureClass.CONFIG_ERROR,
        "",
        "correct what it names, mostly in spec.trainer or spec.podTemplate, and apply the manifest again",
    ),
)

NODES = (
    Sign(
        r"",
        FailureClass.UNAVAILABLE,
        "NodeNotReady",
        "check node {node}, its network plugin and its devices: kubectl describe node {node}",
        waits=True,
    ),
)

PLACES = (
    Sign(
        r"",
        FailureClass.UNSCHEDULABLE,
        "Unschedulable",
        "ask for less, or for nodes that there are (kubectl describe nodes)",
        waits=True,
    ),
)

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
BACK_OFF = "Back-off pulling image"
"""The kubelet's words while it waits: they do not tell the cause, the Event of the last pull does."""
NAMED = compiled(r'^(?:pods|Pod) "[^"]*" is (?:forbidden: )?')
USED = compiled(r"(used: .*?), limited: ")
SIGNS_OF_EVENTS = (
    (TroubleKind.MOUNT, MISSING + MOUNTS),
    (TroubleKind.IMAGE, PULLS),
    (TroubleKind.NODE, NODES),
    (TroubleKind.PLACE, MISSING + PLACES),
)


def of_refusal(trouble: Trouble, namespace: str) -> Obstacle:
    """Why the API server takes no pods of the Job."""
    text = trouble.message
    if match := NAMED.search(text):
        text = text[match.end() :]
    if match := USED.search(text):
        text = f"{text[: match.start()]}limited: {text[match.end() :]}"
    return _read(REFUSALS, "ChildRefused", f"the API server refuses the job's pods: {text}", namespace, None)


def of_pod(pod: Pod, troubles: Sequence[Trouble], namespace: str) -> Obstacle | None:
    """What keeps this pod from starting, as far as it is known. `troubles` may be of other objects, too."""
    if pod.bucket is not Bucket.PENDING:
        return None
    own = {trouble.kind: trouble for trouble in troubles if trouble.object_name == pod.name}
    if pod.waiting is not None:
        return _of_waiting(pod, *pod.waiting, own, namespace)
    placed = pod.node is not None
    for kind, signs in SIGNS_OF_EVENTS:
        trouble = own.get(kind)
        if trouble is not None and placed is (kind is not TroubleKind.PLACE):
            return _read(signs, trouble.reason, trouble.message, namespace, pod.node)
    return None


def _of_waiting(
    pod: Pod, reason: str, message: str, own: dict[TroubleKind, Trouble], namespace: str
) -> Obstacle | None:
    if reason in IMAGE_REASONS:
        pulled = own.get(TroubleKind.IMAGE)
        if message.startswith(BACK_OFF) and pulled is not None:
            message = pulled.message
        return _read(PULLS, reason, message or reason, namespace, pod.node)
    if reason == "Unschedulable":
        return _read(MISSING + PLACES, reason, message, namespace, None)
    return _read(MISSING + CONTAINERS, reason, message or reason, namespace, pod.node)


def _read(signs: Sequence[Sign], reason: str, message: str, namespace: str, node: str | None) -> Obstacle:
    """The obstacle of the first sign in `reason: message`; a sign without a reason of its own keeps `reason`."""
    text = f"{reason}: {message}"
    sign, match = next((sign, match) for sign in signs if (match := search(sign.pattern, text)))
    groups = (group or "" for group in match.groups())
    hint = sign.hint.format(text, *groups, namespace=namespace, node=node or "NODE")
    return Obstacle(sign.class_, sign.reason or reason, message, hint, sign.waits)
