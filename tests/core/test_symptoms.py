"""The words with which drivers, libraries and stores tell a cause, each with the class that it has."""

import pytest

from finetune_api.progress import FailureClass
from finetune_operator.core.patterns import compiled
from finetune_operator.core.symptoms import CATALOGUE, symptom_of

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\n'


@pytest.mark.parametrize(
    ("log", "class_", "reason"),
    [
        pytest.param(
            TRACEBACK + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total "
            "capacity of 79.10 GiB of which 1.29 GiB is free.",
            "OutOfMemoryGPU",
            "OutOfMemoryGPU",
            id="torch: memory of a GPU",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: CUDA error: out of memory", "OutOfMemoryGPU", "OutOfMemoryGPU", id="torch: CUDA"
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "OutOfMemoryGPU",
            "OutOfMemoryGPU",
            id="cuBLAS finds no memory",
        ),
        pytest.param(
            "node0:81:95 [0] enqueue.cc:1402 NCCL WARN Cuda failure 2 'out of memory'",
            "OutOfMemoryGPU",
            "OutOfMemoryGPU",
            id="NCCL finds no memory",
        ),
        pytest.param(
            TRACEBACK + "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to "
            "allocate 17179869184 bytes.",
            "OutOfMemoryGPU",
            "OutOfMemoryGPU",
            id="jax",
        ),
        pytest.param(
            "ResourceExhaustedError: OOM when allocating tensor with shape[512,4096] and type float on "
            "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
            "OutOfMemoryGPU",
            "OutOfMemoryGPU",
            id="tensorflow on a GPU",
        ),
        pytest.param(
            "ResourceExhaustedError: OOM when allocating tensor with shape[512,4096] and type float on "
            "/job:localhost/replica:0/task:0/device:CPU:0 by allocator cpu",
            "OutOfMemoryHost",
            "OutOfMemoryHost",
            id="tensorflow on a CPU",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be "
            "asynchronously reported at some other API call.",
            "HardwareError",
            "GPUMemoryError",
            id="a GPU's memory is broken",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.",
            "HardwareError",
            "GPULost",
            id="a GPU is gone",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:3b:00): 48, pid=1234, Double Bit ECC Error",
            "HardwareError",
            "GPUMemoryError",
            id="Xid 48",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:3b:00): 63, pid=1234, Row Remapper: New row marked for remapping",
            "HardwareError",
            "XidError",
            id="Xid 63",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
            "HardwareError",
            "LinkError",
            id="NVLink",
        ),
        pytest.param(
            "mce: [Hardware Error]: Machine check events logged", "HardwareError", "MachineCheck", id="machine check"
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)",
            "OutOfMemoryHost",
            "OutOfMemoryHost",
            id="torch: memory of the host",
        ),
        pytest.param(TRACEBACK + "MemoryError", "OutOfMemoryHost", "OutOfMemoryHost", id="python"),
        pytest.param(
            TRACEBACK + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 59.6 GiB for an array",
            "OutOfMemoryHost",
            "OutOfMemoryHost",
            id="numpy",
        ),
        pytest.param(
            "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
            "OutOfMemoryHost",
            "OutOfMemoryHost",
            id="c++",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: DataLoader worker (pid 77) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            "ConfigError",
            "SharedMemoryFull",
            id="torch: shared memory",
        ),
        pytest.param(
            TRACEBACK + "OSError: [Errno 28] No space left on device", "StorageFull", "StorageFull", id="disk full"
        ),
        pytest.param(
            TRACEBACK + "OSError: [Errno 122] Disk quota exceeded: '/mnt/out'", "StorageFull", "StorageFull", id="quota"
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 576 vs 470",
            "StorageFull",
            "StorageFull",
            id="torch.save on a full disk",
        ),
        pytest.param(
            TRACEBACK + "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1-6)\n\n"
            "Cannot access gated repo for url https://huggingface.co/meta-llama/x/resolve/main/config.json.",
            "AuthError",
            "AuthError",
            id="huggingface_hub: gated",
        ),
        pytest.param(
            TRACEBACK + "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-6)\n\n"
            "Repository Not Found for url: https://huggingface.co/api/models/me/typo.",
            "ConfigError",
            "RepositoryNotFound",
            id="huggingface_hub: no such repository",
        ),
        pytest.param(
            TRACEBACK + "OSError: me/typo is not a local folder and is not a valid model identifier listed on "
            "'https://huggingface.co/models'",
            "ConfigError",
            "RepositoryNotFound",
            id="transformers: no such repository",
        ),
        pytest.param(
            TRACEBACK + "huggingface_hub.errors.HfHubHTTPError: 403 Forbidden: None.\nCannot access content at: "
            "https://huggingface.co/api/models/me/x.",
            "AuthError",
            "AuthError",
            id="huggingface_hub: 403",
        ),
        pytest.param(
            TRACEBACK + "huggingface_hub.errors.HfHubHTTPError: Server error '503 Service Unavailable' for url "
            "'https://huggingface.co/api/models/me/x'",
            "Unavailable",
            "Unavailable",
            id="huggingface_hub: 503",
        ),
        pytest.param(
            TRACEBACK + "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find "
            "them in the cached files.",
            "Unavailable",
            "Unavailable",
            id="transformers: no hub",
        ),
        pytest.param(
            TRACEBACK + "botocore.exceptions.ClientError: An error occurred (InvalidAccessKeyId) when calling the "
            "ListObjectsV2 operation: The AWS Access Key Id you provided does not exist in our records.",
            "AuthError",
            "AuthError",
            id="botocore: unknown key",
        ),
        pytest.param(
            TRACEBACK + "botocore.exceptions.ClientError: An error occurred (ExpiredToken) when calling the GetObject "
            "operation: The provided token has expired.",
            "AuthError",
            "AuthError",
            id="botocore: expired",
        ),
        pytest.param(
            TRACEBACK + "botocore.exceptions.NoCredentialsError: Unable to locate credentials",
            "AuthError",
            "AuthError",
            id="botocore: no key",
        ),
        pytest.param(
            TRACEBACK + "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://hub/x",
            "AuthError",
            "AuthError",
            id="requests: 401",
        ),
        pytest.param(
            TRACEBACK + "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: https://hub/x",
            "Unavailable",
            "Unavailable",
            id="requests: 503",
        ),
        pytest.param(
            TRACEBACK + "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: "
            "https://huggingface.co/api/models/x",
            "Unavailable",
            "Unavailable",
            id="huggingface_hub: 429",
        ),
        pytest.param(
            TRACEBACK + "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): "
            "Max retries exceeded with url: /x (Caused by NewConnectionError(': [Errno 111] Connection refused'))",
            "Unavailable",
            "Unavailable",
            id="requests: refused",
        ),
        pytest.param(
            TRACEBACK + "httpx.ConnectError: [Errno -3] Temporary failure in name resolution",
            "Unavailable",
            "Unavailable",
            id="httpx: no name",
        ),
        pytest.param(
            TRACEBACK + "botocore.exceptions.EndpointConnectionError: Could not connect to the endpoint URL: "
            '"https://s3.example/bucket"',
            "Unavailable",
            "Unavailable",
            id="botocore: no store",
        ),
        pytest.param(
            TRACEBACK + "botocore.exceptions.ClientError: An error occurred (SlowDown) when calling the PutObject "
            "operation (reached max retries: 4): Please reduce your request rate.",
            "Unavailable",
            "Unavailable",
            id="botocore: too fast",
        ),
        pytest.param(
            "[rank3]:[E321 02:07:08.415 ProcessGroupNCCL.cpp:607] [Rank 3] Watchdog caught collective operation "
            "timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=46, NumelOut=46, Timeout(ms)=600000) ran for "
            "600067 milliseconds before timing out.",
            "CollectiveTimeout",
            "CollectiveTimeout",
            id="torch: NCCL's watchdog",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 5000ms for recv "
            "operation to complete",
            "CollectiveTimeout",
            "CollectiveTimeout",
            id="gloo: no answer",
        ),
        pytest.param(
            TRACEBACK + "torch.distributed.DistStoreError: Timed out after 301 seconds waiting for clients. 1/2 "
            "clients joined.",
            "CollectiveTimeout",
            "PeersMissing",
            id="torch: peers did not come",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: [gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.7]:32144.",
            "Unavailable",
            "PeerLost",
            id="gloo: peer gone",
        ),
        pytest.param(
            TRACEBACK + "RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error [10.0.0.7]:21141: Connection reset "
            "by peer.",
            "Unavailable",
            "PeerLost",
            id="gloo: peer killed",
        ),
        pytest.param(
            TRACEBACK + "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, remote process exited "
            "or there was a network error, NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a "
            "network error or a remote process exiting prematurely.",
            "Unavailable",
            "PeerLost",
            id="NCCL: peer gone",
        ),
        pytest.param(
            "Terminating process because the JAX distributed service detected fatal errors. This most likely indicates "
            "that another task died; see the other task logs for more details.",
            "Unavailable",
            "PeerLost",
            id="jax: peer gone",
        ),
        pytest.param(
            TRACEBACK + "torch.distributed.elastic.multiprocessing.api.SignalException: Process 7 got signal: 15",
            "Preempted",
            "Preempted",
            id="torchrun was told to stop",
        ),
        pytest.param(
            TRACEBACK + "ModuleNotFoundError: No module named 'flash_attn'",
            "CodeError",
            "ModuleNotFoundError",
            id="a package is missing",
        ),
    ],
)
def test_words_tell_the_cause(log: str, class_: str, reason: str) -> None:
    found = symptom_of(log)
    assert found is not None
    assert (found.symptom.class_, found.symptom.reason) == (class_, reason)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        pytest.param(
            "node0 NCCL WARN socketProgress: Connection closed by remote peer node1<4283>\n"
            + TRACEBACK
            + "torch.OutOfMemoryError: CUDA out of memory.",
            "OutOfMemoryGPU",
            id="its own memory before a peer's end",
        ),
        pytest.param(
            "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5)\n"
            + TRACEBACK
            + "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error",
            "CollectiveTimeout",
            id="its own timeout before a peer's end",
        ),
        pytest.param(
            TRACEBACK + "OSError: [Errno 28] No space left on device\n\nDuring handling of the above exception, "
            "another exception occurred:\n\n" + TRACEBACK + "RuntimeError: the store: Connection refused",
            "StorageFull",
            id="a full disk before what it broke",
        ),
    ],
)
def test_of_several_words_those_of_the_cause_count(log: str, reason: str) -> None:
    found = symptom_of(log)
    assert found is not None
    assert found.symptom.reason == reason


@pytest.mark.parametrize(
    "log",
    [
        pytest.param("", id="an empty log"),
        pytest.param(TRACEBACK + "ValueError: labels must be in [0, 3)", id="a fault of the program"),
        pytest.param(
            "429 Client Error: Too Many Requests, retrying in 5 s\n" + TRACEBACK + "KeyError: 'label'",
            id="a library that went on after an answer of 429",
        ),
        pytest.param("NVRM: Xid (PCI:0000:3b:00): 31, pid=9, MMU Fault", id="an Xid that a program's bug causes"),
        pytest.param("loss 5.031 step 503 error 0.29", id="numbers that look like codes"),
    ],
)
def test_other_logs_have_no_symptom(log: str) -> None:
    assert symptom_of(log) is None


def test_the_line_that_tells_it_is_given_without_the_rank_before_it() -> None:
    found = symptom_of("step 1\n[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\n[rank1]: more\n")
    assert found is not None
    assert found.line == "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"


def test_a_line_of_code_in_a_traceback_is_no_symptom() -> None:
    log = (
        'Traceback (most recent call last):\n  File "hub.py", line 892, in check\n'
        "    raise GatedRepoError(message) from e\nhub.GatedRepoError: 401 Client Error.\n\n"
        "Cannot access gated repo for url https://hub/me/x.\n"
    )
    found = symptom_of(log)
    assert found is not None
    assert found.line == "Cannot access gated repo for url https://hub/me/x."
    assert symptom_of(log.partition("hub.GatedRepoError")[0] + "ValueError: no token") is None


def test_half_a_character_in_a_log_does_no_harm() -> None:
    found = symptom_of("\ud83d CUDA out of memory")
    assert found is not None
    assert found.symptom.class_ is FailureClass.OUT_OF_MEMORY_GPU


@pytest.mark.parametrize("symptom", CATALOGUE, ids=lambda symptom: symptom.reason)
def test_every_symptom_has_patterns_of_re2_and_a_hint_that_can_be_filled_in(symptom: object) -> None:
    chosen = next(one for one in CATALOGUE if one is symptom)
    assert all(compiled(pattern) for pattern in chosen.patterns)
    assert chosen.hint.format(pod="p", node="n", namespace="ns")
