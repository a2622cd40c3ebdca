"""What keeps pods from starting, in the words of Kubernetes: class, reason, whether it is waited for, and the hint."""

import pytest

from finetune_operator.core.events import Trouble, TroubleKind
from finetune_operator.core.observe import Bucket, Pod
from finetune_operator.core.obstacles import Obstacle, of_pod, of_refusal


def pending(reason: str | None = None, message: str = "", node: str | None = "node-1") -> Pod:
    return Pod("pod-0", 1, 1, 0, node, Bucket.PENDING, waiting=(reason, message) if reason else None)


def trouble(kind: TroubleKind, message: str, reason: str = "Failed", name: str = "pod-0") -> Trouble:
    return Trouble(kind, reason, message, name)


def mount(message: str) -> Trouble:
    return trouble(TroubleKind.MOUNT, message, "FailedMount")


def seen(found: Obstacle | None) -> tuple[str, str, bool] | None:
    return (found.class_, found.reason, found.waits) if found else None


@pytest.mark.parametrize(
    ("message", "class_", "reason"),
    [
        pytest.param("exceeded quota: gpus, requested: a=1, used: a=8, limited: a=8", "ChildRefused", "QuotaExceeded"),
        pytest.param("failed quota: all: must specify cpu for: trainer", "ChildRefused", "QuotaNeedsResources"),
        pytest.param("insufficient quota to consume: pods", "ChildRefused", "QuotaExceeded"),
        pytest.param(
            "maximum memory usage per Container is 1Gi, but limit is 128Gi", "ChildRefused", "LimitRangeViolated"
        ),
        pytest.param(
            'violates PodSecurity "restricted:latest": hostPath volumes (volume "data")',
            "ChildRefused",
            "PodSecurityViolated",
        ),
        pytest.param(
            'error looking up service account team-a/trainer: serviceaccount "trainer" not found',
            "ChildRefused",
            "ServiceAccountNotFound",
        ),
        pytest.param("no PriorityClass with name urgent was found", "ChildRefused", "PriorityClassNotFound"),
        pytest.param('pod rejected: RuntimeClass "gvisor" not found', "ChildRefused", "RuntimeClassNotFound"),
        pytest.param(
            "ValidatingAdmissionPolicy 'no-root' with binding 'all' denied request: no", "ChildRefused", "PolicyDenied"
        ),
        pytest.param(
            "unable to create new content in namespace team-a because it is being terminated",
            "ChildRefused",
            "NamespaceTerminating",
        ),
        pytest.param("some rule of another kind", "ChildRefused", "ChildRefused"),
    ],
)
def test_a_refusal_is_told_by_who_refuses(message: str, class_: str, reason: str) -> None:
    refused = of_refusal(trouble(TroubleKind.REFUSED, f'pods "reviews-0-x7k2p" is forbidden: {message}'), "team-a")
    assert seen(refused) == (class_, reason, False)


@pytest.mark.parametrize(
    ("message", "class_", "reason"),
    [
        pytest.param(
            'admission webhook "policy.example.com" denied the request: no',
            "ChildRefused",
            "WebhookDenied",
            id="denied",
        ),
        pytest.param(
            'Internal error occurred: failed calling webhook "policy.example.com": connect: connection refused',
            "ChildRefused",
            "WebhookUnavailable",
            id="no webhook",
        ),
        pytest.param(
            'Pod "reviews-0-x1" is invalid: spec.containers[0].image: Required value',
            "ConfigError",
            "PodInvalid",
            id="invalid",
        ),
        pytest.param(
            'pods is forbidden: User "system:serviceaccount:kube-system:job-controller" cannot create resource "pods"',
            "ChildRefused",
            "Forbidden",
            id="no permission",
        ),
    ],
)
def test_refusals_that_are_worded_otherwise(message: str, class_: str, reason: str) -> None:
    assert seen(of_refusal(trouble(TroubleKind.REFUSED, message), "team-a")) == (class_, reason, False)


def test_a_refusal_is_the_same_for_every_pod_and_at_every_moment() -> None:
    """Else each further try of the Job controller would be another status to write."""
    told = [
        of_refusal(
            trouble(
                TroubleKind.REFUSED,
                f'pods "reviews-0-{name}" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, '
                f"used: requests.nvidia.com/gpu={used}, limited: requests.nvidia.com/gpu=8",
            ),
            "team-a",
        )
        for name, used in (("x7k2p", 8), ("b9dfc", 4))
    ]
    assert told[0] == told[1]
    assert told[0].message == (
        "the API server refuses the job's pods: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, "
        "limited: requests.nvidia.com/gpu=8"
    )
    assert told[0].hint == "ask for less, or for a larger quota: kubectl describe quota gpus -n team-a"


NOT_FOUND = 'failed to resolve reference "docker.io/library/trainr:1": docker.io/library/trainr:1: not found'
SECRET = 'MountVolume.SetUp failed for volume "token" : secret "hf-token" not found'


@pytest.mark.parametrize(
    ("pod", "troubles", "expected"),
    [
        pytest.param(pending(), (), None, id="containers are being created"),
        pytest.param(
            pending("ImagePullBackOff", NOT_FOUND), (), ("ImagePull", "ImagePullBackOff", False), id="no such image"
        ),
        pytest.param(
            pending("ImagePullBackOff", "pull access denied, repository does not exist or may require authorization"),
            (),
            ("ImagePull", "ImagePullBackOff", False),
            id="no permission to pull",
        ),
        pytest.param(
            pending("ImagePullBackOff", 'Back-off pulling image "reg/x:1"'),
            (trouble(TroubleKind.IMAGE, 'Failed to pull image "reg/x:1": dial tcp 10.0.0.1:443: i/o timeout'),),
            ("Unavailable", "RegistryUnavailable", True),
            id="the registry is away, as an Event tells",
        ),
        pytest.param(
            pending("ImagePullBackOff", "toomanyrequests: You have reached your pull rate limit"),
            (),
            ("Unavailable", "RegistryUnavailable", True),
            id="the registry's rate limit",
        ),
        pytest.param(
            pending("InvalidImageName", 'couldn\'t parse image name "X:1"'),
            (),
            ("ImagePull", "InvalidImageName", False),
            id="no image's name",
        ),
        pytest.param(
            pending("ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never'),
            (),
            ("ImagePull", "ErrImageNeverPull", False),
            id="never pulled",
        ),
        pytest.param(
            pending("CreateContainerConfigError", 'secret "hf-token" not found'),
            (),
            ("ConfigError", "SecretNotFound", False),
            id="environment from a Secret",
        ),
        pytest.param(
            pending("CreateContainerConfigError", 'configmap "settings" not found'),
            (),
            ("ConfigError", "ConfigMapNotFound", False),
            id="environment from a ConfigMap",
        ),
        pytest.param(
            pending("CreateContainerConfigError", "couldn't find key HF_TOKEN in Secret team-a/hf-token"),
            (),
            ("ConfigError", "KeyNotFound", False),
            id="a key of a Secret",
        ),
        pytest.param(
            pending("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
            (),
            ("ConfigError", "RunsAsRoot", False),
            id="root",
        ),
        pytest.param(
            pending("CreateContainerConfigError", "failed to sync secret cache: timed out"),
            (),
            ("Unavailable", "ContainerNotCreated", True),
            id="the kubelet knows the Secret soon",
        ),
        pytest.param(
            pending("CreateContainerError", 'exec: "train": executable file not found in $PATH'),
            (),
            ("ConfigError", "CreateContainerError", False),
            id="no such program",
        ),
        pytest.param(pending(), (mount(SECRET),), ("ConfigError", "SecretNotFound", False), id="a volume of a Secret"),
        pytest.param(
            pending(),
            (mount('MountVolume.SetUp failed for volume "v" : object "team-a"/"s" not registered'),),
            ("Unavailable", "VolumeNotMounted", True),
            id="a volume that the kubelet knows soon",
        ),
        pytest.param(
            pending(),
            (mount("configmap references non-existent config key: missing-key"),),
            ("ConfigError", "KeyNotFound", False),
            id="a key of a volume",
        ),
        pytest.param(
            pending(),
            (mount('Multi-Attach error for volume "v" Volume is already exclusively attached to one node'),),
            ("Unavailable", "VolumeInUse", True),
            id="another node has the volume",
        ),
        pytest.param(
            pending(),
            (mount("mount failed: exit status 32: mount.nfs: access denied by server while mounting"),),
            ("Unavailable", "MountFailed", False),
            id="the store refuses",
        ),
        pytest.param(
            pending("Unschedulable", '0/1 nodes are available: persistentvolumeclaim "data" not found.', None),
            (),
            ("ConfigError", "ClaimNotFound", False),
            id="no such claim",
        ),
        pytest.param(
            pending("Unschedulable", '0/1 nodes: persistentvolumeclaim "data" is being deleted', None),
            (),
            ("ConfigError", "ClaimBeingDeleted", False),
            id="a claim that goes",
        ),
        pytest.param(
            pending(
                "Unschedulable", "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.", None
            ),
            (),
            ("Unschedulable", "Unschedulable", True),
            id="a claim that is bound soon",
        ),
        pytest.param(
            pending("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", None),
            (),
            ("Unschedulable", "Unschedulable", True),
            id="no room",
        ),
        pytest.param(
            pending(node=None),
            (trouble(TroubleKind.PLACE, "0/3 nodes are available"),),
            ("Unschedulable", "Unschedulable", True),
            id="no room, as an Event tells",
        ),
        pytest.param(
            pending(),
            (trouble(TroubleKind.PLACE, "0/3 nodes are available"),),
            None,
            id="room was found since",
        ),
        pytest.param(
            pending(),
            (trouble(TroubleKind.NODE, "failed to set up pod network"),),
            ("Unavailable", "NodeNotReady", True),
            id="the node's network",
        ),
        pytest.param(
            pending(),
            (trouble(TroubleKind.MOUNT, SECRET, name="pod-1"),),
            None,
            id="another pod's trouble",
        ),
        pytest.param(
            Pod("pod-0", 1, 1, 0, "node-1", Bucket.RUNNING),
            (mount(SECRET),),
            None,
            id="a trouble of the past",
        ),
    ],
)
def test_what_keeps_a_pod(pod: Pod, troubles: tuple[Trouble, ...], expected: tuple[str, str, bool] | None) -> None:
    assert seen(of_pod(pod, troubles, "team-a")) == expected


def test_the_hint_names_the_object_and_the_command() -> None:
    found = of_pod(pending(), (mount(SECRET),), "team-a")
    assert found is not None
    assert (found.message, found.hint) == (
        SECRET,
        "create it and the job goes on by itself: kubectl create secret generic hf-token -n team-a "
        "--from-literal=KEY=VALUE",
    )
