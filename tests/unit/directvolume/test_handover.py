"""Records handed over by `kata-runtime direct-volume`: its work is looked at, and mended."""

import sys
from pathlib import Path

import pytest

from katacsi import app, settings
from katacsi.directvolume.kata_runtime import KataRuntimeHandover
from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import CorruptRecord, HostError, SettingsError, VolumeInUse
from support import kata_runtime_command, kata_vectors

COMMAND = Path(kata_runtime_command.__file__)
RECORD = DirectVolumeRecord("/dev/katacsi", "ext4", ("noatime",), 1000, "OnRootMismatch")
OTHER = DirectVolumeRecord("/dev/loop8", "xfs")


@pytest.mark.parametrize("story", kata_vectors.BY_COMMAND, ids=kata_vectors.why)
def test_the_stand_in_does_what_katas_command_does(story, tmp_path):
    """Kata's own package answered these calls so."""
    root = tmp_path / "root"
    command = [sys.executable, str(COMMAND)]
    assert kata_vectors.told(story, command, root, {"KATA_ROOT": str(root)}) == story["go"], story["why"]


def test_there_are_stories():
    """Or the test above would say nothing."""
    assert len(kata_vectors.BY_COMMAND) >= 4


@pytest.fixture
def kata_runtime(root, tmp_path):
    """Make a command that writes below the root, and dies where told."""

    def make(*, dies="", below=root, configuration=None):
        program = kata_runtime_command.install(tmp_path, below, dies=dies)
        return DirectVolumeWriter(root, handover=KataRuntimeHandover(root, str(program), configuration))

    return make


async def test_a_record_is_added_and_removed_by_the_command(kata_runtime, root, target):
    """The record is the same as ours would be, modes too."""
    writer = kata_runtime()
    writer.add(target, RECORD)
    entry = entry_name(target)
    assert kata_vectors.tree(root) == {
        entry: "0700",
        f"{entry}/{RECORD_FILE}": f"0600 {RECORD.to_json().decode()}",
    }
    assert writer.read(target) == RECORD
    assert writer.remove(target)
    assert not writer.remove(target)
    assert kata_vectors.tree(root) == {}


async def test_the_same_record_again_calls_nothing(kata_runtime, root, target, tmp_path):
    """A publish is repeated often."""
    writer = kata_runtime()
    writer.add(target, RECORD)
    (tmp_path / "kata-runtime").write_text("#!/bin/sh\nexit 9\n")
    writer.add(target, RECORD)
    with pytest.raises(HostError, match="exit code 9"):
        writer.add(target, OTHER)
    assert writer.read(target) == RECORD


@pytest.mark.parametrize("dies", ["folder", "torn"])
async def test_what_a_killed_command_leaves_is_cleared(kata_runtime, root, target, dies):
    """runtime-rs fails all containers of a target with half a record, or with a folder that has none."""
    with pytest.raises(HostError, match="SIGKILL"):
        kata_runtime(dies=dies).add(target, RECORD)
    assert kata_vectors.tree(root) == {}
    kata_runtime().add(target, RECORD)
    assert kata_runtime().read(target) == RECORD


@pytest.fixture
def torn(root, target):
    """Leave half of a record, as the command does when the driver dies with it."""
    entry = root / entry_name(target)
    entry.mkdir(parents=True)
    (entry / RECORD_FILE).write_bytes(RECORD.to_json()[:20])


@pytest.mark.usefixtures("torn")
async def test_half_a_record_is_mended_by_the_retry(kata_runtime, target):
    """Of this record or another; with files it would be none of ours."""
    writer = kata_runtime()
    assert not writer.holds(target, RECORD)
    with pytest.raises(CorruptRecord):
        DirectVolumeWriter(writer._root).holds(target, RECORD)
    for record in (RECORD, OTHER):
        writer.add(target, record)
        assert writer.holds(target, record)


@pytest.mark.usefixtures("torn")
async def test_half_a_record_can_be_removed(kata_runtime, root, target):
    """The other way out: the kubelet gives up."""
    assert kata_runtime().remove(target)
    assert kata_vectors.tree(root) == {}


@pytest.mark.usefixtures("torn")
async def test_half_a_record_is_mended_under_a_live_sandbox(kata_runtime, root, target, shims):
    """It is the same record, so there is nothing that the sandbox could lose."""
    (root / entry_name(target) / "sb").touch()
    await shims.start("sb")
    writer = kata_runtime()
    writer._sandboxes = shims.sandboxes(root)
    writer.add(target, RECORD)
    assert writer.holds(target, RECORD)
    with pytest.raises(VolumeInUse, match="sandbox sb"):
        writer.add(target, OTHER)


async def test_another_record_is_replaced(kata_runtime, target):
    """As with files: no live sandbox uses it."""
    writer = kata_runtime()
    writer.add(target, OTHER)
    writer.add(target, RECORD)
    assert writer.read(target) == RECORD


async def test_a_command_with_another_root_is_found_out(kata_runtime, root, target, tmp_path):
    """Kata's command has its root built in."""
    writer = kata_runtime(below=tmp_path / "elsewhere")
    with pytest.raises(HostError, match="direct_volume_root"):
        writer.add(target, RECORD)
    (root / entry_name(target)).mkdir(parents=True)
    with pytest.raises(HostError, match=r"is still there.*direct_volume_root"):
        writer.remove(target)


async def test_the_command_is_told_its_configuration(kata_runtime, target, tmp_path):
    """It refuses everything without one that it can load."""
    with pytest.raises(HostError, match=r"config file.*none\.toml"):
        kata_runtime(configuration=tmp_path / "none.toml").add(target, RECORD)
    (tmp_path / "kata.toml").touch()
    writer = kata_runtime(configuration=tmp_path / "kata.toml")
    writer.add(target, RECORD)
    assert writer.read(target) == RECORD


async def test_a_command_that_does_not_work_is_found_at_the_start(tmp_path):
    """Not by the first pod; what it said is told. One that works has changed nothing."""
    program = tmp_path / "kata-runtime"
    program.write_text("#!/bin/sh\necho no usable config file >&2; exit 1\n")
    program.chmod(0o755)
    raw = {"direct_volume": {"handover": "kata-runtime", "kata_runtime": str(program)}}
    with pytest.raises(SettingsError, match=r"direct_volume\.kata_runtime.*no usable config file.*`file`"):
        await app.prove_handover(settings.parse(raw, where="test"))
    kata_runtime_command.install(tmp_path, tmp_path / "root")
    raw["direct_volume"]["kata_config"] = str(program)
    await app.prove_handover(settings.parse(raw, where="test"))
    assert not (tmp_path / "root").exists()


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
