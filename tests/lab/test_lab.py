"""tools/lab.py: a command on a machine of its own, which leaves this one as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import lab_host
from support.real_lvm import wait_for


@pytest.fixture(scope="module", params=["uml", "qemu"])
def engine(request: pytest.FixtureRequest) -> lab_host.Engine:
    """Each engine; that other machines lack one is no failure, as long as there is another."""
    engine = lab_host.engine(request.param)
    if not engine.name:
        lab_host.needs(lab_host.engine())
        pytest.skip(engine.why)
    return engine


def start(engine: lab_host.Engine, *arguments: str) -> subprocess.Popen[str]:
    """Start the program."""
    return subprocess.Popen(
        [sys.executable, lab_host.LAB, "run", *arguments],
        env=engine.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def group_of(program: subprocess.Popen[str]) -> int:
    """Give the process group that the machine of the program, and all that belongs to it, is in."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    ours = os.getpgid(0)
    while True:
        groups = {os.getpgid(int(child)) for child in children.read_text().split()} - {ours}
        if groups:
            return groups.pop()
        time.sleep(0.05)


def processes_in(group: int) -> list[str]:
    """Give the processes of a group that have not ended."""
    answer = subprocess.run(
        ["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in answer.stdout.splitlines()]
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


def test_a_command_runs_and_the_host_stays_as_it_is(engine, tmp_path):
    """Output and exit code are the command's; what it writes is gone, but for shared folders."""
    shared = tmp_path / "with a space"
    shared.mkdir()
    script = (
        'echo "out of $WORD"; echo err >&2; touch /etc/katacsi-was-here "$1/kept"; '
        "blockdev --getsize64 $LAB_DISKS; seq 100000; exit 7"
    )
    command = ("bash", "-c", script, "script", str(shared))
    options = ("--timeout=100", "--disk=64M", f"--share={shared}", "--env=WORD=a b")
    program = start(engine, *options, "--", *command)
    output, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (7, "")
    lines = output.splitlines()
    assert lines[:3] == ["out of a b", "err", str(64 << 20)]
    assert lines[3:] == [str(number + 1) for number in range(100000)]
    assert [path.name for path in shared.iterdir()] == ["kept"]
    assert not Path("/etc/katacsi-was-here").exists()


def test_nothing_is_left_of_machines_that_are_ended(engine, request):
    """When the time is up, or the program is ended, so is the machine with all its processes."""
    command = ("bash", "-c", "trap '' TERM; echo ready; sleep 1000")
    ended = {"time": start(engine, "--timeout=12", "--", *command)}
    ended |= {end: start(engine, "--", *command) for end in ("SIGTERM", "SIGINT")}
    for program in ended.values():
        request.addfinalizer(program.communicate)
        request.addfinalizer(program.terminate)
    groups = {end: group_of(program) for end, program in ended.items()}
    for end in ("SIGTERM", "SIGINT"):
        assert ended[end].stdout.readline() == "ready\n"
        assert processes_in(groups[end])
        ended[end].send_signal(signal.Signals[end])
    for end, program in ended.items():
        program.wait(60)
        assert program.returncode == (124 if end == "time" else 128 + signal.Signals[end])
        wait_for(lambda group=groups[end]: not processes_in(group))  # killed, but not dead at once


def test_a_machine_that_fails_says_why(engine):
    """When the machine is off before the command has ended, the exit code tells, and the log is shown."""
    program = start(
        engine, "--timeout=100", "--", "bash", "-c", "echo begun; echo o >/proc/sysrq-trigger; sleep 1000"
    )
    output, errors = program.communicate(timeout=120)
    assert program.returncode == 125
    assert output in ("begun\n", "")
    assert "the machine failed; the end of its log:" in errors
    assert "Power down" in errors
