"""Running the host's tools."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from katacsi.errors import HostError
from katacsi.host import _child, _spawn, command
from katacsi.host.offloop import off_loop


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def children() -> set[str]:
    return {
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    }


@pytest.fixture(autouse=True)
def no_child_stays():
    """No test leaves a process behind, running or dead."""
    yield
    assert children() == set()


@pytest.fixture(params=["posix_spawn", "subprocess"])
def each_way(request, monkeypatch):
    """Start tools as with this C library, then as with one that has less."""
    if request.param == "subprocess":
        monkeypatch.setattr(_spawn, "_native", None)
    elif _spawn._native is None:
        pytest.skip("this C library has no posix_spawn with chdir and closefrom")


@pytest.fixture
def marker() -> str:
    """Seconds to sleep that no other process sleeps."""
    return f"98765.{os.getpid()}{time.monotonic_ns()}"


async def processes_with(marker: str) -> list[int]:
    """Processes whose command line mentions this, once those that were killed had time to go."""
    for _ in range(100):
        found = [
            int(entry.parent.name)
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if marker.encode() in _read(entry)
        ]
        if not found:
            break
        await asyncio.sleep(0.02)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_gives_what_the_tool_printed():
    """Output, messages and exit code come back as the tool gave them."""
    done = command.run(sh("echo out; echo err >&2; exit 3"), timeout_s=10, ok=(3,))
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", "err")


async def test_a_word_is_never_read_by_a_shell():
    """Words reach the tool as they are, whatever signs they hold."""
    word = "a b;$(id)`id`*'\"\n|&> \\"
    assert (command.run(["printf", "%s", word], timeout_s=10)).stdout == word.encode()


async def test_paths_are_words(tmp_path):
    """A path needs no conversion by the caller."""
    (tmp_path / "x").touch()
    assert (command.run(["ls", tmp_path], timeout_s=10)).stdout == b"x\n"


@pytest.mark.usefixtures("each_way")
async def test_environment_is_fixed(monkeypatch):
    """A tool speaks English and sees nothing of our environment, whatever the operator's locale is."""
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("SECRET", "1")
    done = command.run(["env"], timeout_s=10, environment={"DM_DISABLE_UDEV": "1"})
    assert sorted(done.stdout.decode().split()) == [
        "DM_DISABLE_UDEV=1",
        "LC_ALL=C.UTF-8",
        f"PATH={command.ENVIRONMENT['PATH']}",
    ]


@pytest.mark.usefixtures("each_way")
async def test_a_tool_starts_in_the_root_directory_and_in_its_own_session():
    """A tool holds no directory of ours, and a signal to our group (Ctrl-C) does not reach it."""
    done = command.run(sh("pwd; cut -d' ' -f6 /proc/self/stat; echo $$"), timeout_s=10)
    where, session, pid = done.stdout.split()
    assert where == b"/"
    assert session == pid


@pytest.mark.usefixtures("each_way")
async def test_a_tool_inherits_no_descriptor(tmp_path):
    """Files that we hold open are not held by a tool."""
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        done = command.run(sh("ls -l /proc/$$/fd"), timeout_s=10)
    assert b"held" not in done.stdout


@pytest.mark.usefixtures("each_way")
async def test_a_tool_ends_by_the_signals_that_python_ignores():
    """A tool that writes to a closed pipe ends, as it does from a shell."""
    done = command.run(sh("grep -E 'Sig(Ign|Blk)' /proc/self/status"), timeout_s=10)
    # Others may be ignored by whoever started the tests, as SIGHUP is by nohup; a tool inherits that rightly.
    of_python = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    masks = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    assert len(masks) == 2
    assert [mask & of_python for mask in masks] == [0, 0]


@pytest.mark.usefixtures("each_way")
async def test_a_word_with_a_zero_byte_is_refused():
    """C would end the word there, and the tool would get another one."""
    with pytest.raises(ValueError, match="null byte"):
        command.run(["echo", "a\0b"], timeout_s=10)


def test_a_child_that_was_given_up_is_collected_later():
    """One that could not be killed leaves no dead process behind, once it ends and another one starts."""
    _start(sh("sleep 0.1")).close()
    for _ in range(100):
        time.sleep(0.02)
        another = _start(["true"])
        assert another.ends_within(10)
        assert another.collect() == 0
        another.close()
        if not children():
            break
    assert not _child._given_up


def _start(argv: list[str]) -> _child.Child:
    outputs = {"stdout": _child.Output(10), "stderr": _child.Output(10)}
    return _child.Child(f"/bin/{argv[0]}", argv, command.ENVIRONMENT, b"", **outputs)


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("size", [0, 1, 1 << 20])
async def test_input_reaches_the_tool(size):
    """Input of any length arrives whole; without input a tool reads the end of file."""
    assert len((command.run(["cat"], timeout_s=10, stdin=b"x" * size)).stdout) == size


async def test_both_pipes_may_be_full():
    """A tool that writes much to both outputs does not wait for us for ever."""
    script = "head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait"
    done = command.run(sh(script), timeout_s=20)
    assert len(done.stdout) == 3_000_000
    assert len(done.stderr) == command.MAX_MESSAGE_BYTES


async def test_too_much_output_is_an_error(monkeypatch):
    """Half a report is never taken for a whole one."""
    monkeypatch.setattr(command, "MAX_OUTPUT_BYTES", 1000)
    assert len((command.run(sh("head -c 1000 /dev/zero"), timeout_s=10)).stdout) == 1000
    with pytest.raises(command.CommandError, match="more than 1000 bytes"):
        command.run(sh("head -c 1001 /dev/zero"), timeout_s=10)


@pytest.mark.usefixtures("each_way")
async def test_failure_names_the_tool_the_code_and_its_words():
    """The error of a failed tool says what a person needs to know."""
    with pytest.raises(command.CommandError) as caught:
        command.run(sh("echo 'no such thing' >&2; exit 7"), timeout_s=10)
    assert caught.value.message == "sh: exit code 7: no such thing"
    assert (caught.value.tool, caught.value.returncode, caught.value.stderr) == ("sh", 7, "no such thing")


async def test_death_by_signal_is_a_failure():
    """A tool that was killed by somebody is no success, and the signal is named."""
    with pytest.raises(command.CommandError, match="killed by SIGSEGV") as caught:
        command.run(sh("kill -SEGV $$"), timeout_s=10)
    assert caught.value.returncode == -signal.SIGSEGV


@pytest.mark.usefixtures("each_way")
async def test_a_missing_tool_names_its_package(monkeypatch):
    """Where a tool is not installed, the error says what to install; once it is, it is found."""
    monkeypatch.setattr(command, "ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(command.MissingTool, match=r"mkfs\.xfs: not found .* package xfsprogs"):
        command.run(["mkfs.xfs"], timeout_s=10)


async def test_a_tool_may_be_installed_later(monkeypatch, tmp_path):
    """Absence is not remembered, nor is a tool that was taken away."""
    monkeypatch.setattr(command, "ENVIRONMENT", {"PATH": str(tmp_path)})
    tool = tmp_path / "blkid"
    for _ in range(2):
        with pytest.raises(command.MissingTool):
            command.run(["blkid"], timeout_s=10)
        tool.symlink_to("/bin/true")
        command.run(["blkid"], timeout_s=10)
        tool.unlink()


@pytest.mark.usefixtures("each_way")
async def test_what_cannot_be_executed_is_an_error(tmp_path):
    """A file without a program in it is an error of ours, not Python's."""
    tool = tmp_path / "tool"
    tool.write_bytes(b"\0\0")
    tool.chmod(0o755)
    with pytest.raises(HostError, match="cannot be started"):
        command.run([tool], timeout_s=10)


async def test_a_late_command_is_asked_to_end():
    """A command that takes too long gets SIGTERM first, and what it said is kept."""
    script = "trap 'echo tidied >&2; exit 0' TERM; while :; do sleep 0.05; done"
    started = time.monotonic()
    with pytest.raises(command.CommandTimeout, match=r"no end after 0\.3 s.*tidied"):
        command.run(sh(script), timeout_s=0.3)
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("each_way")
async def test_a_deaf_command_is_killed(monkeypatch, marker):
    """A command that ignores SIGTERM is killed after the time of grace, its children with it."""
    monkeypatch.setattr(command, "GRACE_S", 0.2)
    with pytest.raises(command.CommandTimeout) as caught:
        command.run(sh(f"trap '' TERM; sleep {marker} & while :; do sleep 0.05; done"), timeout_s=0.2)
    assert caught.value.returncode == -signal.SIGKILL
    assert await processes_with(marker) == []


async def test_a_grandchild_that_holds_the_pipe_delays_nothing(marker):
    """The end of a command is the end of its process; what it leaves in its session is ended."""
    started = time.monotonic()
    done = command.run(sh(f"echo done; sleep {marker} & exit 0"), timeout_s=30)
    assert done.stdout == b"done\n"
    assert time.monotonic() - started < 5
    assert await processes_with(marker) == []


async def test_cancelling_the_caller_leaves_the_command_running(tmp_path):
    """A change of the host is not cut off because the caller went away."""
    mark = tmp_path / "mark"
    caller = asyncio.create_task(off_loop(command.run, sh(f"sleep 0.3; touch {mark}"), timeout_s=10))
    await asyncio.sleep(0.1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not mark.exists()
    for _ in range(100):
        if mark.exists() and not children():
            break
        await asyncio.sleep(0.02)
    assert mark.exists()


async def test_many_commands_do_not_stop_the_event_loop():
    """A burst of commands leaves the loop free to answer other calls."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(off_loop(command.run, ["true"], timeout_s=30) for _ in range(100)))
    watcher.cancel()
    # Forked in the loop itself they stop it for more than 50 ms, and for longer on a busy machine, as this
    # may be; 2 ms are usual here.
    assert longest < 0.5
