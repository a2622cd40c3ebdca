"""What a program's log says of its end, for programs that leave no Outcome: a catalogue of wordings and their causes.

The first symptom of the catalogue that the log shows is the cause: what a rank met itself stands before what it saw of
its peers. Logs are read as the kubelet keeps them, the last 2,048 bytes or 80 lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.progress import FailureClass
from finetune_operator.core.patterns import clean, compiled


@dataclass(frozen=True)
class Symptom:
    """Wordings that tell a cause; any of `patterns` is enough.

    Where `logged` is False, libraries also log the words and go on, so they count from the first traceback on only.
    A `consequence` tells that another rank ended, not why.
    """

    class_: FailureClass
    reason: str
    hint: str
    patterns: tuple[str, ...]
    logged: bool = True
    consequence: bool = False


@dataclass(frozen=True)
class Finding:
    """A symptom, and the line of the log that shows it."""

    symptom: Symptom
    line: str


REPAIR = "drain and repair the node: kubectl describe node {node}"
SMALLER = "use smaller batches or shorter sequences, or a device with more memory"
CREDENTIALS = "check the Secret that secretRef names, its keys, and what they may read and write"
REACH = "check that pods reach it; it is tried again"
OTHERS = "see how the other pods ended"

CATALOGUE = (
    Symptom(
        FailureClass.HARDWARE_ERROR,
        "GPULost",
        REPAIR,
        (
            r"GPU has fallen off the bus",  # NVIDIA's driver
            r"(?i)GPU is lost",  # nvidia-smi, NVML
            r"(?i)GPU requires reset",
        ),
    ),
    Symptom(
        FailureClass.HARDWARE_ERROR,
        "GPUMemoryError",
        REPAIR,
        (
            r"(?i)uncorrectable ECC error",  # CUDA, as PyTorch and TensorFlow pass it on
            r"CUDA_ERROR_ECC_UNCORRECTABLE",
            r"(?i)double[- ]bit ECC error",
            r"(?i)row[- ]remap(?:per|ping)? fail",  # DCGM
        ),
    ),
    Symptom(
        FailureClass.HARDWARE_ERROR,
        "LinkError",
        REPAIR,
        (
            r"(?i)uncorrectable NVLink error",  # CUDA
            r"CUDA_ERROR_NVLINK_UNCORRECTABLE",
            r"(?i)CUDA error: system not yet initialized",  # no fabric manager on the node
            r"(?i)CUDA error: uncorrectable",
        ),
    ),
    Symptom(
        FailureClass.HARDWARE_ERROR,
        "XidError",
        REPAIR,
        # NVIDIA's driver. Xids 13, 31, 43 and 45 are a program's; 63 and 94 ask for a reset of the device.
        (r"NVRM: Xid .*: (?:46|48|61|62|63|64|74|79|92|94|95|119|120|140|143|154),",),
    ),
    Symptom(FailureClass.HARDWARE_ERROR, "MachineCheck", REPAIR, (r"\[Hardware Error\]:",)),  # Linux
    Symptom(
        FailureClass.OUT_OF_MEMORY_GPU,
        "OutOfMemoryGPU",
        SMALLER,
        (
            r"(?:CUDA|HIP|XPU|MPS backend) out of memory",  # PyTorch
            r"(?:CUDA|HIP) error: out of memory",
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"Cuda failure (?:2 )?'out of memory'",  # NCCL
            r"RESOURCE_EXHAUSTED: .*(?:Out of memory|Ran out of memory)",  # XLA: JAX, TensorFlow
            r"OOM when allocating tensor with shape.*(?:GPU|TPU)",  # TensorFlow
        ),
    ),
    Symptom(
        FailureClass.CONFIG_ERROR,
        "SharedMemoryFull",
        "raise spec.resources.sharedMemory, or use fewer loader processes",
        (
            r"dataloader's workers are out of shared memory",  # PyTorch
            r"killed by signal: Bus error",
            r"unable to (?:allocate|resize|write to) (?:shared memory|file </torch_)",
            r"Error while creating shared memory segment",  # NCCL
        ),
    ),
    Symptom(
        FailureClass.OUT_OF_MEMORY_HOST,
        "OutOfMemoryHost",
        "raise spec.resources.memory, or let the program use less",
        (
            r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",  # PyTorch
            r"DataLoader worker \(pid \d+\) is killed by signal: Killed",
            r"(?m)^(?:\[\w*\d+\]: ?)?(?:\w+\.)*_?(?:Array)?MemoryError\b",  # Python, NumPy
            r"std::bad_alloc",  # C++
            r"OOM when allocating tensor with shape",  # TensorFlow, on a CPU
            r"\[Errno 12\] Cannot allocate memory",
        ),
    ),
    Symptom(
        FailureClass.STORAGE_FULL,
        "StorageFull",
        "free or enlarge the volume that the message names",
        (
            r"\[Errno 28\]|No space left on device|ENOSPC",
            r"\[Errno 122\]|Disk quota exceeded|EDQUOT",
            r"PytorchStreamWriter failed writing file",  # torch.save
            r"inline_container\.cc:\d+\] \. (?:unexpected pos|PytorchStreamWriter failed)",
        ),
    ),
    Symptom(
        FailureClass.CONFIG_ERROR,
        "RepositoryNotFound",
        "check the repository's name; a private one needs HF_TOKEN, from the Secret that secretRef names",
        (
            r"RepositoryNotFoundError|Repository Not Found for url",  # huggingface_hub
            r"is not a local folder and is not a valid model identifier",  # transformers
            r"DatasetNotFoundError",  # datasets
        ),
        logged=False,
    ),
    Symptom(
        FailureClass.AUTH_ERROR,
        "AuthError",
        CREDENTIALS,
        (
            r"GatedRepoError|Cannot access gated repo|trying to access a gated repo",  # huggingface_hub, transformers
            r"\b40[13] (?:Client Error|Forbidden|Unauthorized)|HTTP Error 40[13]",  # requests, huggingface_hub, urllib
            r"An error occurred \((?:403|401|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
            r"|InvalidToken|TokenRefreshRequired|UnrecognizedClientException)\)",  # botocore
            r"(?:<Code>|\b)(?:AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken)\b",  # S3 itself
            r"NoCredentialsError|PartialCredentialsError|Unable to locate credentials",  # botocore
            r"\b(?:PermissionDeniedError|UnauthenticatedError)\b",  # obstore
            r"DefaultCredentialsError|does not have storage\.\S+ access",  # Google Cloud
            r"AuthenticationFailed|AuthorizationPermissionMismatch|AuthorizationFailure",  # Azure
            r"api_key not configured",  # wandb
        ),
        logged=False,
    ),
    Symptom(
        FailureClass.PREEMPTED,
        "Preempted",
        "nothing to do: it is started again",
        (r"SignalException: Process \d+ got signal: (?:15|2)\b",),  # torchrun that was told to stop
    ),
    Symptom(
        FailureClass.COLLECTIVE_TIMEOUT,
        "CollectiveTimeout",
        "see the log of every pod for the rank that did not answer, then the network between the nodes",
        (
            r"Watchdog caught collective operation timeout",  # PyTorch, for NCCL
            r"Some NCCL operations have failed or timed out",
            r"Timed out waiting \d+ ?ms for (?:recv|send) operation to complete",  # gloo
            r"Application timeout caused pair closure",
            r"wait timeout after \d+ms, keys:",  # PyTorch's TCPStore
        ),
    ),
    Symptom(
        FailureClass.COLLECTIVE_TIMEOUT,
        "PeersMissing",
        "see why the other pods did not come, then the network between the nodes",
        (
            r"Timed out after \d+ seconds waiting for clients",  # PyTorch's TCPStore
            r"The client socket has (?:timed out|failed to connect)",
            r"RendezvousTimeoutError|RendezvousConnectionError",  # torchelastic
            r"DEADLINE_EXCEEDED: Barrier timed out",  # JAX, TensorFlow
        ),
        consequence=True,
    ),
    Symptom(
        FailureClass.UNAVAILABLE,
        "PeerLost",
        OTHERS,
        (
            r"gloo/transport/.*(?:Connection (?:closed|reset) by peer|Broken pipe)",  # gloo
            r"Connection closed by peer \[",
            r"remote process exited or there was a network error|ncclRemoteError",  # NCCL
            r"NCCL WARN .*(?:Connection closed by remote peer|Connection reset by peer|Broken pipe)",
            r"socketProgress(?:Opt)?: (?:Connection closed|Call to \w+ from .* failed)",
            r"Net : Connection closed by remote peer",
            r"DistNetworkError|failed to recv, got 0 bytes|Connection was likely closed",  # PyTorch's TCPStore
            r"(?:recvValue|recvVector|sendBytes|recvBytes) failed",
            r"another task died|The tasks have crashed|heartbeat timeout",  # JAX, TensorFlow
            r"UNAVAILABLE: (?:failed to connect to all addresses|Socket closed|Connection reset by peer)",  # gRPC
        ),
        logged=False,
        consequence=True,
    ),
    Symptom(
        FailureClass.UNAVAILABLE,
        "Unavailable",
        REACH,
        (
            r"\b(?:408|429|5\d\d) (?:Client|Server) Error|Too Many Requests",  # requests
            r"HTTP Error (?:429|5\d\d)",  # urllib
            r"(?:Client|Server) error '(?:408|429|5\d\d) ",  # httpx
            r"\b50[0234] (?:Internal Server Error|Bad Gateway|Service Unavailable|Gateway Time-?out)\b",
            r"An error occurred \((?:500|502|503|504|SlowDown|ServiceUnavailable|InternalError|RequestTimeout"
            r"|Throttling\w*|RequestLimitExceeded)\)",  # botocore
            r"Could not connect to the endpoint URL|(?:Endpoint|HTTPClient)\w*Error|(?:Connect|Read)Timeout",
            r"Max retries exceeded with url|Failed to establish a new connection",  # urllib3
            r"Temporary failure in name resolution|Name or service not known|Failed to resolve|getaddrinfo failed",
            r"\b(?:httpx2?|httpcore2?|requests\.exceptions|aiohttp\.client_exceptions)"
            r"\.\w*(?:Connect|Network|RemoteProtocol)\w*",
            r"Couldn't reach '?\S+ on the Hub|Couldn't reach the Hugging Face Hub|We couldn't connect to 'http",
            r"ConnectionRefusedError|Connection refused|ConnectionResetError|Connection aborted",
            r"Network is unreachable|No route to host",
        ),
        logged=False,
    ),
    Symptom(
        FailureClass.CODE_ERROR,
        "ModuleNotFoundError",
        "add the package to the image, or name another by spec.trainer.image",
        (r"ModuleNotFoundError: ",),
        logged=False,
    ),
)

PREFIX = compiled(r"^\[(?:rank|default|[a-z]*)\d+\]: ?")
"""The mark of a rank that torch and torchrun put before a line."""
TRACEBACK = "Traceback (most recent call last)"
FRAME = compiled(r'(?m)^ *File "[^"\n]+", line \d+.*(?:\n {4,}.*)*')
"""A place in a traceback with its line of code: a program that names an error does not have it."""


def symptom_of(log: str) -> Finding | None:
    """The first symptom of the catalogue that the log shows, with the last line that shows it."""
    text = FRAME.sub("", clean(log))
    start = max(text.find(TRACEBACK), 0)
    for symptom in CATALOGUE:
        from_ = 0 if symptom.logged else start
        searched = text[from_:]
        places = [match.start() for pattern in symptom.patterns for match in compiled(pattern).finditer(searched)]
        if places:
            return Finding(symptom, line_at(searched, max(places)))
    return None


def line_at(text: str, place: int) -> str:
    """The line at a character of `text`, without the mark of a rank."""
    line = text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0]
    return without_mark(line).strip()


def without_mark(line: str) -> str:
    mark = PREFIX.search(line)
    return line[mark.end() :] if mark else line
