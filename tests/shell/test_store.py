"""The store: the newest wins, nothing comes back from the dead, and a re-list repairs what a watch lost."""

from typing import Any

from finetune_operator.shell.cluster import BATCH_JOB, JOB, POD, RUNTIME, Listing
from finetune_operator.shell.store import REMOVED_KEPT, Key, Store, key_of
from support.builders import a_child_job, a_job, a_pod

KEY = Key("team-a", "reviews")


def at(version: int, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}


def test_children_are_found_by_their_job() -> None:
    store = Store()
    store.put(POD, at(1, a_pod(0).manifest))
    store.put(POD, at(2, a_pod(1).manifest))
    store.put(BATCH_JOB, at(3, a_child_job().manifest))
    assert [pod["metadata"]["name"] for pod in store.children(POD, KEY)] == [a_pod(0).name, a_pod(1).name]
    assert len(store.children(BATCH_JOB, KEY)) == 1
    assert store.children(POD, Key("team-b", "reviews")) == ()


def test_a_runtime_is_its_own_key() -> None:
    runtime = at(1, {"metadata": {"name": "default", "namespace": "finetune", "uid": "u"}, "spec": {"image": "a:1"}})
    store = Store()
    store.put(RUNTIME, runtime)
    assert key_of(RUNTIME, runtime) == Key("finetune", "default")
    assert store.get(RUNTIME, Key("finetune", "default"))["spec"] == {"image": "a:1"}  # type: ignore[index]


def test_only_news_that_the_core_reads_count_as_news() -> None:
    store = Store()
    pod = a_pod().manifest
    assert store.put(POD, at(1, pod))
    assert not store.put(POD, at(1, pod))
    assert not store.put(POD, at(2, {**pod, "spec": {**pod["spec"], "priority": 3}}))
    assert store.put(POD, at(3, a_pod().not_ready().manifest))


def test_what_is_older_is_not_taken() -> None:
    store = Store()
    store.put(POD, at(10, a_pod().failed(1).manifest))
    assert not store.put(POD, at(9, a_pod().manifest))
    (pod,) = store.children(POD, KEY)
    assert pod["status"]["phase"] == "Failed"


def test_versions_are_numbers() -> None:
    store = Store()
    store.put(POD, at(9, a_pod().manifest))
    assert store.put(POD, at(10, a_pod().failed(1).manifest))


def test_what_was_removed_does_not_come_back_from_an_older_list() -> None:
    store = Store()
    store.put(JOB, at(1, a_job().manifest))
    store.remove(JOB, at(2, a_job().manifest))
    assert store.replace(JOB, Listing([at(1, a_job().manifest)], 1), within=None) == set()
    assert store.get(JOB, KEY) is None


def test_what_is_newer_than_the_list_stays() -> None:
    store = Store()
    store.put(JOB, at(7, a_job().manifest))
    assert store.replace(JOB, Listing([], 6), within=None) == set()
    assert store.get(JOB, KEY) is not None


def test_a_list_repairs_what_a_watch_lost() -> None:
    store = Store()
    store.put(POD, at(1, a_pod(0).manifest))
    store.put(POD, at(2, a_pod(1).manifest))
    listing = Listing([at(3, a_pod(1).failed(1).manifest), at(4, a_pod(2).manifest)], 5)
    assert store.replace(POD, listing, within=None) == {KEY}
    assert sorted(pod["metadata"]["name"] for pod in store.children(POD, KEY)) == [a_pod(1).name, a_pod(2).name]


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    store = Store()
    store.put(JOB, at(1, a_job().manifest))
    store.put(JOB, at(2, a_job(namespace="team-b").manifest))
    store.replace(JOB, Listing([], 5), within="team-b")
    assert [body["metadata"]["namespace"] for body in store.all(JOB)] == ["team-a"]


def test_a_pods_last_words_stay_until_its_attempt_is_settled() -> None:
    store = Store()
    store.put(POD, at(1, a_pod().manifest))
    store.remove(POD, at(2, a_pod().failed(75).manifest))
    store.settle(KEY, run=1, attempt=1)
    (gone,) = store.gone(KEY)
    assert gone["status"]["phase"] == "Failed"
    store.settle(KEY, run=1, attempt=2)
    assert store.gone(KEY) == ()


def test_an_object_that_took_the_name_of_a_deleted_one_stays() -> None:
    store = Store()
    new = a_job(uid="ffffffff-0000-4000-8000-000000000002").manifest
    store.put(JOB, at(5, new))
    assert not store.remove(JOB, at(6, a_job().manifest))
    assert store.get(JOB, KEY) is not None


def test_nothing_of_a_removed_job_is_kept() -> None:
    """The memory of an operator that has seen many jobs does not grow."""
    store = Store()
    for number in range(REMOVED_KEPT + 10):
        job = at(2 * number + 1, a_job(uid=f"uid-{number}").manifest)
        store.put(JOB, job)
        store.remove(JOB, job)
    assert list(store.all(JOB)) == []
    assert len(store._removed) == REMOVED_KEPT
    assert not any(store._objects[JOB].values())


def test_what_is_kept_of_a_pod_is_small() -> None:
    pod = at(1, a_pod().manifest)
    pod["metadata"]["managedFields"] = ["x" * 10_000]
    pod["spec"]["containers"] = ["x" * 10_000]
    store = Store()
    store.put(POD, pod)
    assert len(str(store.children(POD, KEY))) < 1500
