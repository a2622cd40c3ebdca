"""`plan`: which image, which folder, which claims; and what is refused with words that help."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import PROGRAM_ENV, RESERVED_ENV
from finetune_api.placement import EnvVar, Framework, PodTemplate, Scheduling, TrainerOverride
from finetune_api.policy import Elastic
from finetune_api.progress import FailureClass
from finetune_api.runtime import RuntimeVolume
from finetune_operator.core.plan import Plan, Refused, Runtime, Runtimes, claims, freeze, plan, thaw
from finetune_operator.core.pod import pod_template
from support.builders import ENDPOINT, RUNTIME, RUNTIMES, AJob, a_job

OWN = Runtime("team-a", "default", {"image": "own:1", "resources": {"cpu": "8"}})
BASE = "/volumes/models/reviews/team-a/reviews/0a1b2"
CACHE = {"cache": {"uri": "pvc://downloads/all"}}
LOCAL = {"model": {"uri": "pkg://package/model"}}
PREVIOUS = Path(__file__).parent / "frozen"
"""What the operator before this one wrote into ConfigMaps."""


@pytest.mark.parametrize(
    ("job", "runtimes", "image"),
    [
        pytest.param(a_job(), RUNTIMES, "trainer:1", id="the operator's default"),
        pytest.param(a_job(), Runtimes(RUNTIME, OWN), "own:1", id="the namespace's own default"),
        pytest.param(a_job().with_spec(trainer={"image": "mine:1"}), Runtimes(RUNTIME, OWN), "mine:1", id="the job's"),
        pytest.param(a_job().with_spec(trainer={"image": "mine:1"}), Runtimes(), "mine:1", id="no runtime is needed"),
    ],
)
def test_image(job: AJob, runtimes: Runtimes, image: str) -> None:
    assert job.plan(runtimes).image == image


@pytest.mark.parametrize(
    ("spec", "run", "folder", "checkpoints", "output"),
    [
        pytest.param(
            {}, 1, BASE, f"{BASE}/checkpoints", "pvc://models/reviews/team-a/reviews/0a1b2", id="below the path"
        ),
        pytest.param(
            {"output": {"exact": True}},
            1,
            "/volumes/models/reviews",
            "/volumes/models/reviews/checkpoints",
            "pvc://models/reviews",
            id="exact",
        ),
        pytest.param(
            {},
            2,
            f"{BASE}/run-2",
            f"{BASE}/run-2/checkpoints",
            "pvc://models/reviews/team-a/reviews/0a1b2/run-2",
            id="a re-run has a folder of its own",
        ),
        pytest.param(
            {"checkpoint": {"uri": "pvc://fast"}},
            1,
            BASE,
            "/volumes/fast/team-a/reviews/0a1b2/checkpoints",
            "pvc://models/reviews/team-a/reviews/0a1b2",
            id="checkpoints on their own volume",
        ),
        pytest.param({"output": {"uri": None}}, 1, "/scratch", "/scratch/checkpoints", None, id="no volume"),
        pytest.param(
            {"output": {"uri": "s3://bucket/models/"}},
            2,
            "/scratch",
            "/scratch/checkpoints",
            "s3://bucket/models/team-a/reviews/0a1b2/run-2",
            id="an object store gets a folder of the job",
        ),
        pytest.param(
            {"output": {"uri": "gs://bucket/models", "exact": True}},
            1,
            "/scratch",
            "/scratch/checkpoints",
            "gs://bucket/models",
            id="an object store, exact",
        ),
        pytest.param(
            {"output": {"uri": "hf://org/model"}},
            2,
            "/scratch",
            "/scratch/checkpoints",
            "hf://org/model",
            id="a repository is taken as it is",
        ),
        pytest.param(
            {"output": {"uri": "oci://registry.example/model:v1"}, "checkpoint": {"uri": "pvc://fast"}},
            1,
            "/scratch",
            "/volumes/fast/team-a/reviews/0a1b2/checkpoints",
            "oci://registry.example/model:v1",
            id="a repository, checkpoints on a volume",
        ),
    ],
)
def test_folders(spec: dict[str, Any], run: int, folder: str, checkpoints: str, output: str | None) -> None:
    config = a_job().with_spec(**spec).plan(run=run).config
    assert (config.folder, config.checkpoint_folder, config.output_uri) == (folder, checkpoints, output)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, {"data": False, "models": True}, id="data is read, the output written"),
        pytest.param(
            {"model": {"uri": "pvc://models/base"}, "checkpoint": {"uri": "pvc://fast/x"}},
            {"data": False, "models": True, "fast": True},
            id="a claim that is read and written",
        ),
        pytest.param(CACHE, {"data": False, "models": True, "downloads": True}, id="the cache is written"),
        pytest.param({"output": {"uri": "s3://bucket/models"}}, {"data": False}, id="a bucket is no claim"),
    ],
)
def test_claims_are_written_to_only_where_the_run_writes(spec: dict[str, Any], expected: dict[str, bool]) -> None:
    config = a_job().with_spec(**spec).plan().config
    assert claims(config) == expected
    assert config.volumes == {claim: f"/volumes/{claim}" for claim in sorted(expected)}


def test_all_jobs_that_name_a_cache_share_its_folder() -> None:
    folders = {
        a_job(name).with_spec(**CACHE).plan(run=run).config.cache_folder for name in ("a", "b") for run in (1, 2)
    }
    assert folders == {"/volumes/downloads/all"}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param({}, 1800, id="the default"),
        pytest.param({"hangTimeoutSeconds": 60}, 60, id="the job's"),
        pytest.param({"hangTimeoutSeconds": 0}, 0, id="never"),
    ],
)
def test_hang_timeout(policy: dict[str, Any], expected: int) -> None:
    assert a_job().with_policy(**policy).plan().config.hang_timeout_seconds == expected


PROGRAM = {"trainer": {"image": "mine:1", "command": ["python", "train.py"]}}


@pytest.mark.parametrize(
    ("spec", "runtimes", "fetcher", "fetches"),
    [
        pytest.param({}, RUNTIMES, None, False, id="no cache"),
        pytest.param(CACHE, RUNTIMES, None, True, id="a hub model and a cache"),
        pytest.param({**CACHE, **LOCAL}, RUNTIMES, None, False, id="nothing is remote"),
        pytest.param(
            {**CACHE, **LOCAL, "evaluation": {"forgetting": {"uri": "s3://bucket/rows.csv"}}},
            RUNTIMES,
            None,
            True,
            id="rows of the evaluation are remote",
        ),
        pytest.param({**CACHE, **PROGRAM}, RUNTIMES, "trainer:1", True, id="another program; our image fetches"),
        pytest.param({**CACHE, **PROGRAM}, Runtimes(), None, False, id="another program, and no image of ours"),
        pytest.param({**CACHE, **PROGRAM}, Runtimes(RUNTIME, OWN), "own:1", True, id="the nearest runtime's image"),
    ],
)
def test_what_is_fetched_and_by_which_image(
    spec: dict[str, Any], runtimes: Runtimes, fetcher: str | None, fetches: bool
) -> None:
    made = a_job().with_spec(**spec).plan(runtimes)
    assert (made.fetcher_image, made.fetches) == (fetcher, fetches)
    assert made.config.own_program == ("command" in spec.get("trainer", {}))


def test_a_plan_says_which_runtimes_it_was_made_from() -> None:
    made = a_job().plan(Runtimes(RUNTIME, OWN))
    assert made.runtimes == "finetune/default sha256:c2dbe12cbb512c3f; team-a/default sha256:33d2755d4a86fe56"
    stored_otherwise = Runtime("finetune", "default", {"env": None, **RUNTIME.spec})
    assert a_job().plan(Runtimes(stored_otherwise, OWN)).runtimes == made.runtimes


def refused(job: AJob, runtimes: Runtimes = RUNTIMES) -> Refused:
    result = plan(job.job, 1, runtimes)
    assert isinstance(result, Refused)
    return result


@pytest.mark.parametrize(
    ("job", "runtimes", "reason", "message"),
    [
        pytest.param(
            a_job(), Runtimes(), "NoImage", "spec.trainer.image: no image is named by the job", id="no image anywhere"
        ),
        pytest.param(
            a_job().with_spec(training={"learningRate": -1}),
            RUNTIMES,
            "InvalidSpec",
            "spec.training.learningRate: -1",
            id="out of range",
        ),
        pytest.param(
            a_job().with_spec(model={"uri": "./model"}),
            RUNTIMES,
            "InvalidSpec",
            "spec.model.uri: './model' is relative",
            id="a path of one machine",
        ),
        pytest.param(
            a_job().with_spec(podTemplate={"spec": {"hostNetwork": True}}),
            RUNTIMES,
            "InvalidSpec",
            "spec.podTemplate.spec.hostNetwork",
            id="host access",
        ),
        pytest.param(
            a_job().with_policy(rules=[{"name": "bad", "onLogPatterns": ["ok", "(?=no)"], "action": "Fail"}]),
            RUNTIMES,
            "InvalidSpec",
            "spec.runPolicy.rules[0].onLogPatterns[1]: '(?=no)' is no regular expression of RE2",
            id="a pattern that RE2 does not have",
        ),
        pytest.param(
            a_job().with_nodes(2).with_spec(elastic={"minNodes": 3}),
            RUNTIMES,
            "InvalidSpec",
            "spec.elastic.minNodes: 3 is more than spec.resources.nodes, 2",
            id="elastic from more nodes than there are",
        ),
        pytest.param(
            a_job().with_nodes(4).with_spec(elastic={"minNodes": 1, "maxNodes": 3}),
            RUNTIMES,
            "InvalidSpec",
            "spec.elastic.maxNodes: 3 is less than spec.resources.nodes, 4",
            id="elastic up to fewer nodes than there are",
        ),
        pytest.param(
            a_job(),
            Runtimes(Runtime("finetune", "default", {"image": "a:1", "resources": {"nodes": 0}})),
            "InvalidRuntime",
            "FineTuneRuntime finetune/default: spec.resources.nodes: 0 is less than 1",
            id="a runtime's fault is told as the runtime's",
        ),
        pytest.param(
            a_job(),
            Runtimes(RUNTIME, Runtime("team-a", "default", {"podTemplate": {"spec": {"hostPID": True}}}), "finetune"),
            "InvalidRuntime",
            "FineTuneRuntime team-a/default: spec.podTemplate.spec.hostPID",
            id="a runtime in the job's namespace cannot loosen pods either",
        ),
        pytest.param(
            a_job(),
            Runtimes(Runtime("finetune", "default", {"image": "a:1", "podTemplate": {"spec": {"containers": [{}]}}})),
            "InvalidRuntime",
            "FineTuneRuntime finetune/default: spec.podTemplate.spec.containers[0].name: is required",
            id="a container of the platform's own needs a name",
        ),
    ],
)
def test_bad_configuration_is_refused_by_field(job: AJob, runtimes: Runtimes, reason: str, message: str) -> None:
    failure = refused(job, runtimes).failure
    assert (failure.class_, failure.reason) == (FailureClass.CONFIG_ERROR, reason)
    assert message in failure.message
    assert failure.hint


def test_the_platforms_own_runtime_may_open_the_host_and_its_users_may_not() -> None:
    opened = {
        "hostNetwork": True,
        "containers": [{"name": "trainer", "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}],
    }
    runtimes = Runtimes(RUNTIME, Runtime("finetune", "rdma", {"podTemplate": {"spec": opened}}), "finetune")
    job = a_job().with_spec(runtimeRef={"name": "rdma"})
    assert job.plan(runtimes).pod_template.spec == opened
    assert refused(job.with_spec(podTemplate={"spec": opened}), runtimes).failure.reason == "InvalidSpec"


def test_every_fault_is_told_at_once() -> None:
    job = a_job().with_spec(training={"learningRate": -1, "trainBatchSize": 0})
    message = refused(job).failure.message
    assert "spec.training.learningRate" in message
    assert "spec.training.trainBatchSize" in message


def test_a_missing_runtime_is_waited_for() -> None:
    result = refused(a_job().with_spec(runtimeRef={"name": "h200"}))
    assert result.waits
    assert result.failure.reason == "RuntimeNotFound"
    assert "FineTuneRuntime h200 in team-a" in result.failure.message
    assert not refused(a_job(), Runtimes()).waits


def a_full_job() -> AJob:
    """With a value that is not the default in every field that a plan is made from."""
    return (
        a_job()
        .with_nodes(2)
        .with_policy(hangTimeoutSeconds=60)
        .with_spec(
            **CACHE,
            trainer={
                "image": "mine:1",
                "framework": "jax",
                "command": ["python"],
                "args": ["train.py"],
                "env": [{"name": "A", "value": "1"}],
            },
            podTemplate={"spec": {"nodeSelector": {"gpu": "b200"}}},
            scheduling={"queueName": "team", "gang": "Volcano", "topology": {"required": "rack"}},
            elastic={"minNodes": 1, "maxNodes": 4, "grow": True},
        )
    )


SHARED_FOLDER = {"name": "shared", "mountPath": "/shared", "claimName": "shared", "readOnly": True}


def test_a_frozen_plan_thaws_to_the_same_plan() -> None:
    runtime = Runtime("team-a", "default", {**OWN.spec, "volumes": [SHARED_FOLDER]})
    made = a_full_job().plan(Runtimes(RUNTIME, runtime)).with_attempt(3)
    made = replace(made, excluded=("node-1",), avoided=("node-2",))
    assert thaw(freeze(made)) == made
    assert made.volumes == (RuntimeVolume.model_validate(SHARED_FOLDER),)


def previous() -> tuple[AJob, dict[str, str]]:
    """A job, and what the previous operator froze of it."""
    job = a_job().with_nodes(2).with_spec(trainer={"env": [{"name": "A", "value": "1"}]})
    data = {name: (PREVIOUS / name).read_text() for name in ("run.json", "runtime.json")}
    return job.with_spec(podTemplate={"spec": {"nodeSelector": {"gpu": "b200"}}}), data


def test_what_the_previous_operator_froze_thaws() -> None:
    job, data = previous()
    assert thaw(data) == Plan(
        config=job.plan().with_attempt(2).config,
        image="trainer:1",
        trainer=TrainerOverride(image="trainer:1", env=[EnvVar(name="A", value="1")]),
        pod_template=PodTemplate(spec={"nodeSelector": {"gpu": "b200"}}),
        scheduling=Scheduling(),
        elastic=Elastic(),
        volumes=(),
        fetcher_image=None,
        runtimes="",
    )


def test_an_older_trainer_is_told_only_of_features_that_are_asked_for() -> None:
    """Its RunConfig refuses fields that it does not know, and a job may pin its image."""
    job, data = previous()
    known = json.loads(data["run.json"])
    assert json.loads(freeze(job.plan().with_attempt(2))["run.json"]) == known
    asked = json.loads(freeze(job.with_policy(hangTimeoutSeconds=0).plan().with_attempt(2))["run.json"])
    assert asked == {**known, "hangTimeoutSeconds": 0}
    cached = json.loads(freeze(job.with_spec(**CACHE).plan().with_attempt(2))["run.json"])
    assert set(cached) - set(known) == {"cacheFolder"}


def test_another_number_of_nodes_and_another_handling_leave_the_rest_of_a_plan() -> None:
    made = a_job().with_nodes(4).plan()
    smaller = made.with_nodes(3).with_handling(Elastic(min_nodes=2), Scheduling(queue_name="team"))
    assert (smaller.nodes, smaller.elastic.min_nodes, smaller.scheduling.queue_name) == (3, 2, "team")
    assert smaller.with_nodes(4).with_handling(made.elastic, made.scheduling) == made


def test_the_program_of_a_job_is_in_its_plan() -> None:
    made = a_full_job().plan()
    assert (made.image, made.env) == ("mine:1", (EnvVar(name="A", value="1"),))
    assert (made.trainer.framework, made.trainer.command, made.trainer.args) == (
        Framework.JAX,
        ["python"],
        ["train.py"],
    )
    assert (made.service, made.name) == ("reviews-0a1b2-r1", "reviews-0a1b2-r1a1")


def test_later_attempts_differ_in_number_and_names_only() -> None:
    first = a_job().plan()
    second = first.with_attempt(2)
    assert (first.name, second.name) == ("reviews-0a1b2-r1a1", "reviews-0a1b2-r1a2")
    assert second.with_attempt(1) == first


@pytest.mark.parametrize("data", [{}, {"run.json": "{}"}, {"run.json": "", "runtime.json": "[]"}])
def test_what_is_no_frozen_plan_is_refused(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        thaw(data)


def test_plans_share_nothing_that_can_change() -> None:
    """Two jobs planned over the same runtime do not see each other's podTemplate."""
    runtimes = Runtimes(Runtime("finetune", "default", {"image": "a:1", "podTemplate": {"spec": {"volumes": []}}}))
    volume = {"name": "v", "emptyDir": {}}
    one = a_job().with_spec(podTemplate={"spec": {"volumes": [volume]}}).plan(runtimes)
    other = a_job("other").plan(runtimes)
    assert isinstance(other, Plan)
    assert (one.pod_template.spec, other.pod_template.spec) == ({"volumes": [volume]}, {"volumes": []})


def test_a_program_is_told_of_its_peers_by_the_operator_alone() -> None:
    trainer = {"command": ["torchrun", "train.py"], "env": [{"name": "PET_NNODES", "value": "7"}]}
    refused = plan(a_job().with_spec(trainer=trainer).job, 1, RUNTIMES)
    assert isinstance(refused, Refused)
    assert "spec.trainer.env[0].name: the operator sets PET_NNODES" in refused.failure.message
    ours = a_job().with_spec(trainer={"env": trainer["env"]})
    assert isinstance(plan(ours.job, 1, RUNTIMES), Plan)


def test_every_variable_of_the_operator_is_kept_from_programs() -> None:
    job = a_job().with_spec(trainer={"framework": "torch"}, cache={"uri": "pvc://cache"}, resources={"nodes": 2})
    template = pod_template(job.plan(), {}, ENDPOINT)
    told = {variable["name"] for variable in template["spec"]["containers"][0]["env"]}
    assert {name for name in told if name.startswith("FINETUNE_")} <= PROGRAM_ENV | RESERVED_ENV
