"""A cluster of our own comes up from whatever state it is in, and leaves the machine as it was.

These clusters run in a network namespace of their own, beside the one that the other tests share.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster.build import programs
from support.cluster.layout import REPOSITORY, Layout, default_cache
from support.cluster.node import PAUSE_IMAGE
from support.cluster.process import Daemon, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


class Place:
    """A network namespace with a cache of its own, which borrows the programs and images of the shared one."""

    def __init__(self, cache: Path) -> None:
        self.layout, shared = Layout(cache), Layout(default_cache())
        self.layout.binaries.symlink_to(shared.binaries)
        self.layout.containers.symlink_to(shared.containers)
        self.layout.registry.symlink_to(shared.registry)
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo made; exec sleep 3600"]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "made\n"

    def close(self) -> None:
        """Takes the cluster down where a test has left it up."""
        self.finish("down")
        self._holder.kill()
        self._holder.communicate()

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Starts a program in the place."""
        environment = {**os.environ, "FINETUNE_TEST_CACHE": str(self.layout.cache), "PYTHONPATH": "tests"}
        inside = ["nsenter", f"--target={self._holder.pid}", "--net", "--", *argv]
        pipe = subprocess.PIPE
        return subprocess.Popen(inside, cwd=REPOSITORY, env=environment, text=True, stdout=pipe, stderr=pipe)

    def begin(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command of the test cluster."""
        return self.start(sys.executable, "-m", "support.cluster", *command)

    def finish(self, *command: str) -> tuple[int, str]:
        """Runs a command of the test cluster to its end; returns its exit status and all that it said."""
        process = self.begin(*command)
        output, errors = process.communicate()
        return process.returncode, output + errors

    def kubectl(self, *arguments: str) -> str:
        program = programs(self.layout)["kubectl"]
        output, errors = self.start(str(program), f"--kubeconfig={self.layout.kubeconfig}", *arguments).communicate()
        return output + errors

    def output(self, *argv: str) -> str:
        return self.start(*argv).communicate()[0]

    def pid(self, program: str) -> int | None:
        return Daemon(program, self.layout.run).pid


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


READY = "the cluster is ready\n"


def test_up_starts_it_again_whole_after_a_program_was_lost_and_down_leaves_the_machine_as_it_was(place: Place) -> None:
    before = machine(place)
    assert place.finish("up", "--internet")[0] == 0
    assert machine(place) != before
    assert "pod/left-over created" in place.kubectl("run", "left-over", f"--image={PAUSE_IMAGE}")
    assert "condition met" in place.kubectl("wait", "pod/left-over", "--for=condition=Ready", "--timeout=60s")

    lost = place.pid("kube-apiserver")
    assert lost
    os.kill(lost, signal.SIGKILL)
    assert place.finish("status")[0] != 0
    assert place.finish("up")[0] == 0
    code, text = place.finish("status")
    assert (code, text.endswith(READY)) == (0, True), text
    assert "No resources found" in place.kubectl("get", "pods")

    assert place.finish("down") == (0, "")
    assert machine(place) == before
    assert not place.layout.run.exists()


def test_up_clears_away_what_an_interrupted_start_has_left(place: Place) -> None:
    interrupted = place.begin("up")
    assert wait_until(lambda: place.pid("kube-apiserver") is not None, seconds=60)
    interrupted.kill()
    interrupted.communicate()
    assert place.finish("up")[0] == 0
    code, text = place.finish("status")
    assert (code, text.endswith(READY)) == (0, True), text


def test_a_start_that_fails_shows_the_log_of_what_failed_and_leaves_nothing_running(place: Place) -> None:
    place.layout.binaries.unlink()
    shared = programs(Layout(default_cache()))
    for directory in shared.directories:
        (place.layout.binaries / directory.name).mkdir(parents=True)
        for program in directory.iterdir():
            (place.layout.binaries / directory.name / program.name).symlink_to(program)
    broken = programs(place.layout)["kubelet"]
    broken.unlink()
    broken.write_text("#!/bin/sh\necho I cannot start\nexit 5\n")
    broken.chmod(0o755)

    code, text = place.finish("up")

    assert (code, "kubelet ended." in text, text.endswith("I cannot start\n")) == (1, True, True), text
    assert place.pid("kube-apiserver") is None
    assert "finetune0" not in machine(place)["interfaces"]


def machine(place: Place) -> dict[str, str]:
    """What a cluster could leave behind: interfaces, rules, mounts, settings of the kernel, control groups."""
    settings = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory")
    groups = Path("/sys/fs/cgroup").glob(f"**/{place.layout.cgroup}")
    return {
        "interfaces": place.output("ip", "-oneline", "link"),
        "rules": place.output("iptables", "--table", "nat", "--list-rules"),
        "forwarding": place.output("cat", "/proc/sys/net/ipv4/ip_forward"),
        "mounts": Path("/proc/self/mounts").read_text(),
        "groups": " ".join(map(str, groups)),
        **{name: Path("/proc/sys", name).read_text() for name in settings},
    }
