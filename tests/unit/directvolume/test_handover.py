"""Records handed over by `kata-runtime direct-volume`: its work is looked at, and mended."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import kata_vectors
from katacsi import app, settings
from katacsi.directvolume.handover import KataRuntimeHandover
from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import CorruptRecord, HostError, SettingsError
from support import kata_runtime_command

COMMAND = Path(kata_runtime_command.__file__)
VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "kata-direct-volume.json"
RECORD = DirectVolumeRecord("/dev/katacsi", "ext4", ("noatime",), 1000, "OnRootMismatch")
OTHER = DirectVolumeRecord("/dev/loop8", "xfs")

STORIES = [
    story
    for story in json.loads(VECTORS.read_text())["stories"]
    if all(step["do"] in ("add", "remove") for step in story["steps"])
]


def modes(root):
    """Give what the vectors tell of a root."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
        found[str(path.relative_to(root))] = f"{mode} {path.read_text()}" if path.is_file() else mode
    return found


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story["name"])
def test_the_stand_in_does_what_katas_command_does(story, tmp_path):
    """Kata's own package has told these stories to tools/kata_vectors.py."""
    root = tmp_path / "root"
    succeeded = []
    for step in story["steps"]:
        arguments = ["--volume-path", step["path"], "--mount-info", step.get("text", "")]
        answer = subprocess.run(
            [sys.executable, COMMAND, "direct-volume", step["do"], *arguments],
            env={"KATA_ROOT": str(root)},
            capture_output=True,
            check=False,
        )
        succeeded.append({"ok": answer.returncode == 0})
    assert succeeded == story["go"]["answers"]
    assert (modes(root) if root.exists() else None) == story["go"]["tree"]


def test_there_are_stories():
    """Or the test above would say nothing."""
    assert len(STORIES) >= 4


@pytest.fixture
def kata_runtime(root, tmp_path):
    """Make a command that writes below the root, and dies where told."""

    def make(*, dies="", below=root):
        program = tmp_path / "kata-runtime"
        variables = f"KATA_ROOT={below} KATA_DIES={dies}"
        program.write_text(f'#!/bin/sh\n{variables} exec {sys.executable} {COMMAND} "$@"\n')
        program.chmod(0o755)
        return DirectVolumeWriter(root, handover=KataRuntimeHandover(root, str(program)))

    return make


async def test_a_record_is_added_and_removed_by_the_command(kata_runtime, root, target):
    """The record is the same as ours would be, modes too."""
    writer = kata_runtime()
    await writer.add(target, RECORD)
    entry = entry_name(target)
    assert modes(root) == {entry: "0700", f"{entry}/{RECORD_FILE}": f"0600 {RECORD.to_json().decode()}"}
    assert await writer.read(target) == RECORD
    assert await writer.remove(target)
    assert not await writer.remove(target)
    assert modes(root) == {}


async def test_the_same_record_again_calls_nothing(kata_runtime, root, target, tmp_path):
    """A publish is repeated often."""
    writer = kata_runtime()
    await writer.add(target, RECORD)
    (tmp_path / "kata-runtime").write_text("#!/bin/sh\nexit 9\n")
    await writer.add(target, RECORD)
    with pytest.raises(HostError, match="exit code 9"):
        await writer.add(target, OTHER)
    assert await writer.read(target) == RECORD


@pytest.mark.parametrize("dies", ["folder", "torn"])
async def test_a_command_that_is_killed_is_an_error_that_the_retry_mends(kata_runtime, root, target, dies):
    """The command does not write atomically."""
    with pytest.raises(HostError, match="SIGKILL"):
        await kata_runtime(dies=dies).add(target, RECORD)
    if dies == "torn":
        with pytest.raises(CorruptRecord):
            await kata_runtime().read(target)
    else:
        assert modes(root) == {}, "runtime-rs fails all containers of a folder without a record"
    await kata_runtime().add(target, RECORD)
    assert await kata_runtime().read(target) == RECORD


async def test_what_a_killed_command_left_can_be_removed(kata_runtime, root, target):
    """The other way out: the kubelet gives up."""
    with pytest.raises(HostError):
        await kata_runtime(dies="torn").add(target, RECORD)
    assert await kata_runtime().remove(target)
    assert modes(root) == {}


async def test_another_record_is_replaced(kata_runtime, target):
    """As with files: no live sandbox uses it."""
    writer = kata_runtime()
    await writer.add(target, OTHER)
    await writer.add(target, RECORD)
    assert await writer.read(target) == RECORD


async def test_a_command_with_another_root_is_found_out(kata_runtime, root, target, tmp_path):
    """Kata's command has its root built in."""
    writer = kata_runtime(below=tmp_path / "elsewhere")
    with pytest.raises(HostError, match="direct_volume_root"):
        await writer.add(target, RECORD)
    (root / entry_name(target)).mkdir(parents=True)
    with pytest.raises(HostError, match=r"is still there.*direct_volume_root"):
        await writer.remove(target)


def test_without_the_command_nothing_starts(tmp_path):
    """At start-up, not at the first pod."""
    raw = {"direct_volume": {"handover": "kata-runtime", "kata_runtime": str(tmp_path / "none")}}
    chosen = settings.parse(raw, where="test")
    with pytest.raises(SettingsError, match=r"direct_volume\.kata_runtime.*handover"):
        app.handover_of(chosen)
    program = tmp_path / "none"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert isinstance(app.handover_of(chosen), KataRuntimeHandover)


@pytest.mark.timeout(1800)  # it compiles Kata's crate
def test_katas_own_package_takes_and_removes_records():
    """On demand: the same command line on Kata's own Go package, at Kata's own root, in a private /run."""
    if not os.environ.get("KATACSI_SOURCE_KATA"):
        pytest.skip("KATACSI_SOURCE_KATA names no clone of kata-containers, and no registry serves its code")
    if os.geteuid() != 0:
        pytest.skip("needs root, for a /run of its own")
    output = kata_vectors.in_private([sys.executable, __file__, str(kata_vectors.programs()["go"])])
    assert output.decode().split() == ["added", "removed"]


async def hand_over(program):
    """Add a record and remove it; say so."""
    root = kata_vectors.ROOT
    writer = DirectVolumeWriter(root, handover=KataRuntimeHandover(root, program))
    await writer.add("/pods/one", RECORD)
    assert await writer.read("/pods/one") == RECORD
    assert modes(root)[entry_name("/pods/one")] == "0700"
    print("added")
    await writer.remove("/pods/one")
    assert modes(root) == {}
    print("removed")


if __name__ == "__main__":
    asyncio.run(hand_over(sys.argv[1]))
