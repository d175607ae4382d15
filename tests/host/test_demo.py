"""`katacsi demo`, whole: it proves what it says, and nothing stays of it, however it ends."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from katacsi.cli.root import katacsi
from katacsi.demo.guests import Guests
from katacsi.testing import leaks

_UP = ("NodeStageVolume", "NodePublishVolume")
_DOWN = ("NodeUnpublishVolume", "NodeUnstageVolume")
#: The calls of one volume's life, in the order of the story.
CALLS = [
    *("CreateVolume", *_UP, "NodeGetVolumeStats", *_DOWN),
    *(*_UP, "NodeUnpublishVolume", "CreateSnapshot", "CreateVolume", *_UP, *_DOWN),
    *("NodePublishVolume", "NodeExpandVolume", *_DOWN, *_UP, "NodeExpandVolume", *_DOWN),
    *("DeleteSnapshot", "DeleteVolume", "DeleteVolume"),
]
COMMAND = (sys.executable, "-m", "katacsi", "demo")


@dataclass
class Run:
    """A run that has ended: its exit code and what it printed, stderr included."""

    code: int
    lines: list[str]

    @property
    def folders(self) -> list[Path]:
        """The folders it worked in, by its first line."""
        return [Path(name) for name in re.findall(r"(/\S*katacsi-demo-[^/\s]+)/", self.lines[0])]

    def left(self) -> str:
        """Say what is left of it."""
        assert len(self.folders) == 2, self.lines[0]
        found = [str(folder) for folder in self.folders if folder.exists()]
        found += [str(kept) for folder in self.folders if (kept := leaks.settled_leaks_below(folder))]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_text("utf-8", "replace")
            except OSError:
                continue
            found += [words for folder in self.folders if str(folder) in words]
        return "\n".join(found)


def demo(scratch: Path, *options: str) -> Run:
    """Run the demo to its end."""
    answer = subprocess.run(
        [*COMMAND, "--scratch", scratch, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return Run(answer.returncode, answer.stdout.splitlines())


def until(scratch: Path, seen: str, act) -> Run:
    """Run the demo; when a line contains what is to be seen, act on the process and the lines so far."""
    process = subprocess.Popen(
        [*COMMAND, "--plain", "--scratch", scratch],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with process:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if act is not None and seen in line:
                act(process, lines)
                act = None
    assert act is None, f"{seen!r} was never printed"
    return Run(process.returncode, lines)


def test_the_demo_tells_the_whole_story_and_leaves_nothing(scratch):
    """All calls come in order, the one that has to be refused is, and the last line says what was proven."""
    run = demo(scratch)
    assert run.code == 0, "\n".join(run.lines)
    calls = [line.split()[1] for line in run.lines if line.startswith(("kubelet", "sidecar"))]
    assert calls == CALLS
    refused = [line for line in run.lines if "FAILED_PRECONDITION" in line]
    assert len(refused) == 1
    assert "NodeExpandVolume" in refused[0]
    assert "restart the pod" in " ".join(" ".join(run.lines).split())
    assert run.lines[-1].startswith("Proven: ")
    assert run.left() == ""


def test_what_the_demo_shows_is_what_happened(scratch):
    """Each kind of change is seen on the machine as often as it has to happen in the story."""
    text = "\n".join(demo(scratch).lines)
    seen = {
        what: len(re.findall(what, text))
        for what in (
            r"/dev/loop\d+ attached",
            r"/dev/loop\d+ detached",
            "guard mounted",
            "guard unmounted",
            "record written",
            "record removed",
            "ext4 grew from 64Mi to 128Mi",
            "made: 64Mi",
            "gone, with its",
        )
    }
    assert list(seen.values()) == [4, 4, 5, 5, 5, 5, 1, 3, 3]


def test_the_record_is_shown_as_kata_reads_it(scratch):
    """The record's path and its bytes are printed, and the device is the one that was attached."""
    lines = demo(scratch).lines
    at = next(i for i, line in enumerate(lines) if "The record that Kata reads" in line)
    assert re.search(r"/direct-volumes/[A-Za-z0-9_=-]+/mountInfo\.json:$", lines[at])
    device = re.search(r"(/dev/loop\d+) attached", "\n".join(lines))[1]
    assert lines[at + 1].strip() == f'{{"volume-type":"directvol","device":"{device}","fstype":"ext4"}}'


def test_the_demo_works_twice_in_a_row_and_side_by_side(scratch):
    """A run does not stand in the way of the next one, or of one beside it."""
    beside = subprocess.Popen([*COMMAND, "--scratch", scratch], stdout=subprocess.PIPE, text=True)
    first, second = demo(scratch), demo(scratch)
    with beside:
        lines = beside.stdout.read().splitlines()
    for run in (first, second, Run(beside.returncode, lines)):
        assert run.code == 0, "\n".join(run.lines)
        assert run.left() == ""


def test_on_a_terminal_it_draws_and_proves_the_same(scratch):
    """On a terminal of 80 columns no row of the table is longer, and the last line is the same."""
    output = on_terminal([*COMMAND, "--scratch", str(scratch)], columns=80)
    assert "\x1b[" in output
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "\n").splitlines()
    rows = [line for line in lines if line.startswith(("kubelet", "sidecar", "guest"))]
    assert {row.split()[1] for row in rows} >= set(CALLS)
    assert max(len(row.rstrip()) for row in rows) <= 80
    assert [line for line in lines if line][-1].startswith("Proven: ")


def on_terminal(command: list[str], columns: int) -> str:
    """Run a command on a terminal of its own; give all that it wrote there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"},
    )
    os.close(theirs)
    chunks = []
    try:
        while select.select([ours], [], [], 60)[0]:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the other side is closed
                break
            if not chunk:
                break
            chunks.append(chunk)
    finally:
        os.close(ours)
        process.wait(60)
    assert process.returncode == 0
    return b"".join(chunks).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize(
    "seen", ["WHO", "NodePublishVolume", "kill -9", "CreateSnapshot", "mount, stay", "DeleteSnapshot"]
)
def test_an_interrupted_demo_leaves_nothing(scratch, seen, number):
    """Ctrl-C and its kin at any point: the signal's exit code, no claim of a proof, and nothing left."""
    run = until(scratch, seen, lambda process, _: process.send_signal(number))
    assert run.code == 128 + number
    assert run.lines[-1] == "Interrupted; cleaned up."
    assert run.left() == ""


def test_a_driver_that_dies_ends_the_demo_with_its_log(scratch):
    """When the driver fails the demo says so, shows the driver's last lines, and still clears up."""

    def kill_driver(_: object, lines: list[str]) -> None:
        pid = re.search(r"process (\d+), answers", "\n".join(lines))[1]
        os.kill(int(pid), signal.SIGKILL)

    run = until(scratch, "NodeStageVolume", kill_driver)
    assert run.code == 1
    assert any(line.startswith("driver: ") for line in run.lines)
    assert run.lines[-1].startswith("Error: ")
    assert not any("Proven" in line for line in run.lines)
    assert run.left() == ""


def test_bytes_that_differ_are_no_proof(scratch, monkeypatch):
    """When the volume does not hold what was to be written the demo fails: its proof is no mere text."""
    write = Guests.write
    monkeypatch.setattr(Guests, "write", lambda self, volume, data: write(self, volume, data[:-1]))
    result = CliRunner().invoke(katacsi, ["demo", "--scratch", str(scratch)])
    assert result.exit_code == 1
    assert "the bytes are not those that were written" in result.stderr
    assert "Proven" not in result.output


def test_keep_keeps_files_and_nothing_else(scratch):
    """With --keep configuration, pool and log stay where the last lines say; mounts and loop devices go."""
    run = demo(scratch, "--keep")
    kept = Path(re.search(r"^Kept: ([^,]+),", "\n".join(run.lines), re.MULTILINE)[1])
    assert {"config.yaml", "driver.log", "pool"} == {path.name for path in kept.iterdir()}
    assert "nothing left behind" not in run.lines[-1]
    assert not leaks.settled_leaks_below(kept)


def test_without_loop_devices_it_names_them(scratch):
    """Where /dev has no loop-control the demo makes nothing: exit code 2, and the remedy."""
    script = 'mount -t tmpfs none /dev && exec "$@"'
    answer = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *COMMAND, "--scratch", scratch],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("Error: loop devices: /dev/loop-control is missing")
    assert list(scratch.iterdir()) == []
