"""A program in the background is found again by its identity, and only it is ended."""

import os
import subprocess
from pathlib import Path

import pytest

from support.cluster.process import CommandFailed, ComponentFailed, Daemon, ProcessId, children, run, succeeds


@pytest.fixture
def sleeper(tmp_path: Path) -> Daemon:
    return Daemon("sleeper", tmp_path)


def test_a_daemon_runs_until_it_is_stopped(sleeper: Daemon) -> None:
    sleeper.start(["sleep", "60"])
    pid = sleeper.pid
    assert pid is not None
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    sleeper.stop()
    assert sleeper.pid is None


def test_another_process_finds_it_by_its_name_and_directory(sleeper: Daemon) -> None:
    sleeper.start(["sleep", "60"])
    assert Daemon(sleeper.name, sleeper.directory).pid == sleeper.pid
    sleeper.stop()


def test_a_process_that_has_taken_over_the_pid_is_not_ours_and_is_left_alone(sleeper: Daemon) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pidfile = sleeper.directory / "pids" / sleeper.name
        pidfile.parent.mkdir()
        pidfile.write_text(f"{stranger.pid} 1")
        assert sleeper.pid is None
        sleeper.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_daemon_that_ends_early_is_reported_with_the_end_of_its_log(sleeper: Daemon) -> None:
    sleeper.start(["sh", "-c", "echo no such option; exit 3"])
    with pytest.raises(ComponentFailed, match=r"sleeper ended\. The end of .*/logs/sleeper\.log:\nno such option"):
        sleeper.await_ready(lambda: False, seconds=20)


def test_a_daemon_that_is_not_ready_in_time_is_reported_with_the_end_of_its_log(sleeper: Daemon) -> None:
    sleeper.start(["sh", "-c", "echo still thinking; exec sleep 60"])
    with pytest.raises(ComponentFailed, match="sleeper was not ready within"):
        sleeper.await_ready(lambda: False, seconds=0.5)
    sleeper.stop()


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ProcessId.of(process.pid) is None


def test_children_of_a_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in children(os.getpid())
        child.kill()


def test_run_returns_what_was_printed_and_raises_what_was_said() -> None:
    assert run(["sh", "-c", "cat"], stdin="text") == "text"
    assert run(["sh", "-c", "echo $WORD"], env={"WORD": "word"}) == "word\n"
    with pytest.raises(CommandFailed, match=r"exited 4:\nwhy"):
        run(["sh", "-c", "echo why >&2; exit 4"])


def test_succeeds_is_whether_the_exit_status_is_zero() -> None:
    assert [succeeds(["true"]), succeeds(["false"]), succeeds(["no-such-program"])] == [True, False, False]
