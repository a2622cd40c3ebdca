"""Names that more than one program relies on: labels, paths, ports, environment, and what children are called."""

from __future__ import annotations

from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "finetune.dev/v1alpha1"
JOBS = "finetunejobs"
RUNTIMES = "finetuneruntimes"

LABEL_JOB = f"{GROUP}/job"
LABEL_RUN = f"{GROUP}/run"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_ROLE = f"{GROUP}/role"
ROLE_TRAIN: Final = "train"
ROLE_FETCH: Final = "fetch"
"""What a Job and its pods are for: training, or filling the cache before any accelerator is held."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "finetune-operator"

DEFAULT_RUNTIME = "default"
CONTAINER = "trainer"

CONFIG_DIR = "/etc/finetune"
RUN_CONFIG_FILE = "run.json"
CA_FILE = "ca.crt"
RUNTIME_FILE = "runtime.json"
VOLUMES_DIR = "/volumes"
SCRATCH_DIR = "/scratch"
TOKEN_DIR = "/var/run/secrets/finetune.dev"
TOKEN_FILE = "token"
TOKEN_AUDIENCE = "finetune.dev/progress"
TERMINATION_LOG = "/dev/termination-log"

METRICS_PORT = 9400
MASTER_PORT = 29500
PROGRESS_PORT = 10443
PROGRESS_PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status"

ENV_RUN_CONFIG = "FINETUNE_RUN_CONFIG"
ENV_NODE_RANK = "JOB_COMPLETION_INDEX"
ENV_POD_NAME = "FINETUNE_POD_NAME"
ENV_NODE_NAME = "FINETUNE_NODE_NAME"
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
ENV_PARENT = "FINETUNE_PARENT"
"""Process id of who started the trainer, if it is to save and stop when that process ends."""
ENV_SERVER_URL = "KUBEFLOW_TRAINER_SERVER_URL"
ENV_SERVER_CA = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
ENV_SERVER_TOKEN = "KUBEFLOW_TRAINER_SERVER_TOKEN"

SECRET_KEYS = (
    "HF_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "OCI_USERNAME",
    "OCI_PASSWORD",
    "OCI_CONFIG_JSON",
)
"""Keys of a `secretRef` that become environment variables of the same name."""

RESERVED_ENV = frozenset(
    {
        "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
        ENV_RUN_CONFIG, ENV_NODE_RANK, ENV_POD_NAME, ENV_NODE_NAME, ENV_TERMINATION_LOG, ENV_PARENT,
        ENV_SERVER_URL, ENV_SERVER_CA, ENV_SERVER_TOKEN,
    }
)  # fmt: skip
"""Environment variables that belong to the operator; a manifest may not set them."""

PROGRAM_ENV = frozenset(
    {
        "FINETUNE_NODES", "FINETUNE_NODE_RANK", "FINETUNE_HOSTS", "FINETUNE_OUTPUT_DIR", "FINETUNE_CHECKPOINT_DIR",
        "FINETUNE_SOURCES", "FINETUNE_GRACE_SECONDS", "PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR",
        "PET_MASTER_PORT",
    }
)  # fmt: skip
"""Variables that tell a program of somebody else of its peers and places; its manifest may not set them."""

MAX_JOB_NAME = 36


def uid5(uid: str) -> str:
    """The five characters of an object's uid that tell two jobs of the same name apart."""
    return uid.replace("-", "")[:5]


def attempt_name(job: str, uid: str, run: int, attempt: int) -> str:
    """Name of what belongs to one attempt: its Job, ConfigMap and PodGroup."""
    return f"{job}-{uid5(uid)}-r{run}a{attempt}"


def run_service_name(job: str, uid: str, run: int) -> str:
    """Name of the headless Service through which the pods of a run find each other, in every attempt."""
    return f"{job}-{uid5(uid)}-r{run}"


def fetch_name(attempt: str) -> str:
    """Name of the Job that downloads what the run reads, before the attempt of that name starts."""
    return f"{attempt}-fetch"


def volume_folder(namespace: str, job: str, uid: str) -> str:
    """Folder below a volume's path that belongs to one job, so that two jobs never share files by accident."""
    return f"{namespace}/{job}/{uid5(uid)}"


def volume_mount(claim: str) -> str:
    """Where a claim is mounted in a training container."""
    return f"{VOLUMES_DIR}/{claim}"
