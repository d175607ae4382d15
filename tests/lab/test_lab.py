"""tools/lab.py: a command on a machine of its own, which leaves this one as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import lab_host
from support.real_lvm import wait_for


@pytest.fixture(autouse=True, scope="module")
def lab() -> None:
    """Skip these tests where there is no lab."""
    if reason := lab_host.why_not():
        pytest.skip(reason)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the program."""
    return subprocess.Popen(
        [sys.executable, lab_host.LAB, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def session_of(program: subprocess.Popen[str]) -> int:
    """Give the session that the program's kernel and all its processes are in."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.05)
    return int(found[-1])


def processes_in(session: int) -> list[str]:
    """Give the processes of a session that have not ended."""
    answer = subprocess.run(
        ["ps", "--sid", str(session), "-o", "stat=,args="], capture_output=True, text=True, check=False
    )
    return [line for line in answer.stdout.splitlines() if not line.startswith("Z")]


def test_a_command_runs_and_the_host_stays_as_it_is(tmp_path):
    """Output and exit code are the command's; what it writes is gone, but for shared folders."""
    shared = tmp_path / "with a space"
    shared.mkdir()
    script = (
        'echo "out of $WORD"; echo err >&2; touch /etc/katacsi-was-here "$1/kept"; '
        "blockdev --getsize64 /dev/ubda; seq 100000; exit 7"
    )
    command = ("bash", "-c", script, "script", str(shared))
    program = start("--timeout=100", "--disk=64M", f"--share={shared}", "--env=WORD=a b", "--", *command)
    output, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (7, "")
    lines = output.splitlines()
    assert lines[:3] == ["out of a b", "err", str(64 << 20)]
    assert lines[3:] == [str(number + 1) for number in range(100000)]
    assert [path.name for path in shared.iterdir()] == ["kept"]
    assert not Path("/etc/katacsi-was-here").exists()


def test_nothing_is_left_of_machines_that_are_ended(request):
    """When the time is up, or the program is ended, so is the machine with all its processes."""
    command = ("bash", "-c", "trap '' TERM; echo ready; sleep 1000")
    ended = {"time": start("--timeout=12", "--", *command)}
    ended |= {end: start("--", *command) for end in ("SIGTERM", "SIGINT")}
    for program in ended.values():
        request.addfinalizer(program.communicate)
        request.addfinalizer(program.terminate)
    sessions = {end: session_of(program) for end, program in ended.items()}
    for end in ("SIGTERM", "SIGINT"):
        assert ended[end].stdout.readline() == "ready\n"
        assert processes_in(sessions[end])
        ended[end].send_signal(signal.Signals[end])
    for end, program in ended.items():
        program.wait(60)
        assert program.returncode == (124 if end == "time" else 128 + signal.Signals[end])
        wait_for(lambda session=sessions[end]: not processes_in(session))  # killed, but not dead at once


def test_a_machine_that_fails_says_why():
    """When the machine is off before the command has ended, the exit code tells, and the log is shown."""
    program = start(
        "--timeout=100", "--", "bash", "-c", "echo begun; echo o >/proc/sysrq-trigger; sleep 1000"
    )
    output, errors = program.communicate(timeout=120)
    assert program.returncode == 125
    assert output in ("begun\n", "")
    assert "the machine failed; the end of its log:" in errors
    assert "Power down" in errors
