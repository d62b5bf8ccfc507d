"""Telling processes apart, and the dead from the living."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

from search.processes import describe_process, process_may_live, process_name

NAME = "from search.processes import process_name; print(process_name(), flush=True)"


def child(then: str) -> tuple[subprocess.Popen[bytes], str]:
    process = subprocess.Popen([sys.executable, "-c", f"{NAME}\n{then}"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().decode().strip()


def test_this_process_lives_and_keeps_its_name() -> None:
    assert process_name() == process_name()
    assert process_may_live(process_name())


def test_a_living_process_lives_until_it_is_killed() -> None:
    process, name = child("import time; time.sleep(60)")
    with process:
        assert process_may_live(name)
        process.kill()
        process.wait()

    assert not process_may_live(name)


def test_a_killed_process_that_its_parent_has_not_taken_leave_of_is_gone() -> None:
    process, name = child("import time; time.sleep(60)")
    with process:
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while process_may_live(name) and time.monotonic() < deadline:
            time.sleep(0.01)
        alive = process_may_live(name)

    assert not alive


def test_a_stopped_process_still_lives() -> None:
    process, name = child("import time; time.sleep(60)")
    with process:
        os.kill(process.pid, signal.SIGSTOP)
        assert process_may_live(name)
        process.kill()


def test_another_process_with_the_pid_of_a_dead_one_is_not_taken_for_it() -> None:
    host, _, rest = process_name().partition(":")
    pid, _, start = rest.partition(":")

    assert not process_may_live(f"{host}:{pid}:{int(start) - 1}")


def test_a_name_with_something_added_is_still_recognised() -> None:
    process, name = child("pass")
    with process:
        pass

    assert process_may_live(f"{process_name()}:nonce")
    assert not process_may_live(f"{name}:nonce")


def test_a_process_on_another_host_may_live() -> None:
    assert process_may_live("another-host/1:1:1")
    assert process_may_live("another-host:99999999:1")


def test_a_forked_process_has_a_name_of_its_own() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        name = pool.apply(process_name)

    assert name != process_name()


def test_people_read_pid_and_host() -> None:
    assert describe_process("box/4026531836:17:99") == "process 17 on box"
    assert describe_process("") == "another process"
