"""Processes told apart, their trees, and their names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.running import EATER, FAMILY, Start, until
from weigh.machine.processes import (
    Process,
    Tree,
    everyone,
    is_alive,
    is_stopped,
    leads_here,
    listening_ports,
    named,
    names_of,
    process_of,
    send,
)


def test_children_of_children_belong(start: Start) -> None:
    root = start(FAMILY, lines=3)
    told = {int(line) for line in start.lines}  # type: ignore[attr-defined]
    members = Tree(lambda: [root]).members()
    assert {member.pid for member in members} == told
    assert members[0] == root


def test_who_once_belonged_stays_when_its_parent_ends(start: Start) -> None:
    root = start(FAMILY, lines=3)
    tree = Tree(lambda: [root])
    before = tree.members()
    middle = before[1]
    os.kill(middle.pid, signal.SIGKILL)
    until(lambda: not is_alive(middle))
    assert before[2] in tree.members()
    assert before[2] not in Tree(lambda: [root]).members()  # one that is made only now cannot know


def test_a_number_given_anew_is_another_process(start: Start) -> None:
    process = start(EATER, 0, 1, lines=1)
    before = Process(process.pid, process.started - 1)  # as one that had the number before
    assert not is_alive(before)
    assert not send(before, signal.SIGKILL)
    assert Tree(lambda: [before]).signal(signal.SIGKILL) == []
    assert is_alive(process)


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = process_of(child.pid)
    assert process is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet waited for
    assert process_of(child.pid) is None
    assert Tree(lambda: [process]).members() == ()
    assert not send(process, signal.SIGTERM)
    child.wait()


def test_a_tree_is_paused_and_resumed_whole(start: Start) -> None:
    root = start(FAMILY, lines=3)
    tree = Tree(lambda: [root])
    reached = tree.signal(signal.SIGSTOP)
    assert len(reached) == 3
    until(lambda: all(map(is_stopped, reached)))
    assert tree.signal(signal.SIGCONT, lambda process: process == root) == [root]
    until(lambda: not is_stopped(root))
    assert is_stopped(reached[1])


def test_what_starts_while_a_tree_is_stopped_is_caught(start: Start) -> None:
    forks = """
import os, time
print("on", flush=True)
while True:
    if os.fork() == 0:
        time.sleep(60)
    time.sleep(0.001)
"""
    root = start(forks, lines=1)
    tree = Tree(lambda: [root])
    time.sleep(0.05)
    tree.signal(signal.SIGKILL)
    until(lambda: not tree.members())


def test_this_very_process_never_belongs() -> None:
    this = process_of(os.getpid())
    parent = process_of(os.getppid())
    assert this is not None
    assert parent is not None
    assert this not in Tree(lambda: [this]).members()
    assert this not in Tree(lambda: [parent]).members()
    assert leads_here(this)
    assert leads_here(parent)
    assert all(process != this for process, _ in everyone())


def test_names_are_the_programs_and_the_scripts(start: Start, tmp_path: object) -> None:
    from pathlib import Path

    script = Path(str(tmp_path)) / "my-engine"
    script.write_text("import time\nprint('on', flush=True)\ntime.sleep(60)\n")
    child = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        names = names_of(child.pid)
        assert "my-engine" in names
        assert Path(sys.executable).name in names
        assert child.pid in {process.pid for process in named("my-engine")}
        assert named("my-engin") == []
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]


def test_threads_of_the_kernel_and_the_gone_have_no_names() -> None:
    assert names_of(2**22 + 1) == ()


def test_ports_a_tree_listens_on(start: Start) -> None:
    listens = """
import os, socket, time
with socket.socket() as s:
    s.bind(("127.0.0.1", 0)); s.listen()
    if os.fork():
        s.close(); time.sleep(60)
    print(s.getsockname()[1], flush=True); time.sleep(60)
"""
    root = start(listens, lines=1)
    port = int(start.lines[0])  # type: ignore[attr-defined]
    assert listening_ports(Tree(lambda: [root]).members()) == (port,)
