"""Writing, reading and removing records in a root that others share."""

import asyncio
import os
import stat
import threading
from functools import partial

import pytest

from katacsi.directvolume.names import RECORD_FILE, decoded, entry_name, temporary_entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.shim import GuestStats, ResizeOutcome
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import (
    CorruptRecord,
    ForeignContent,
    HostError,
    InvalidRequest,
    Unavailable,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import files

RECORD = DirectVolumeRecord("/dev/katacsi", "ext4", ("noatime",), 1000, "OnRootMismatch")
OTHER = DirectVolumeRecord("/dev/loop8", "xfs")
STATS = GuestStats(100, 60, 40, 10, 6, 4)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def tree(root):
    return {path.relative_to(root): path.is_file() and path.read_bytes() for path in sorted(root.rglob("*"))}


@pytest.fixture
def entry(root, target):
    """The folder of the target's record."""
    return root / entry_name(target)


async def test_added_is_readable_and_private(writer, root, entry, target):
    """A record says which host device a guest gets: folders 0700, file 0600, and nothing beside it."""
    writer.add(target, RECORD)
    assert writer.read(target) == RECORD
    assert (mode(root), mode(entry), mode(entry / RECORD_FILE)) == (0o700, 0o700, 0o600)
    assert list(tree(root)) == [entry.relative_to(root), (entry / RECORD_FILE).relative_to(root)]


async def test_a_root_that_the_kubelet_made_is_closed(writer, root, target):
    """The kubelet makes a missing hostPath 0755."""
    root.mkdir(parents=True)
    root.chmod(0o755)
    writer.add(target, RECORD)
    assert mode(root) == 0o700


async def test_adding_again_writes_nothing(writer, entry, target):
    """A repeated publish leaves the very same file."""
    writer.add(target, RECORD)
    before = (entry / RECORD_FILE).stat()
    writer.add(target, RECORD)
    after = (entry / RECORD_FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_adding_again_is_no_matter_of_sandboxes(writer, shims, entry, target):
    """A repeated publish of a running pod succeeds."""
    writer.add(target, RECORD)
    (entry / "sb").touch()
    await shims.start("sb")
    writer.add(target, RECORD)


async def test_replacing_keeps_sandbox_ids(writer, entry, target):
    """The ids that shims left are not ours to lose."""
    writer.add(target, RECORD)
    (entry / "sb").touch()
    writer.add(target, OTHER)
    assert writer.read(target) == OTHER
    assert writer.sandbox_ids(target) == ["sb"]


async def test_a_record_in_use_is_not_replaced(writer, shims, entry, target):
    """A live sandbox has the old device; another record is refused, and the old one stays."""
    writer.add(target, RECORD)
    (entry / "sb").touch()
    await shims.start("sb")
    with pytest.raises(VolumeInUse, match="sandbox sb"):
        writer.add(target, OTHER)
    assert writer.read(target) == RECORD


async def test_a_torn_record_is_replaced(writer, entry, target):
    """What another writer's crash left at our target does not block the volume for ever."""
    entry.mkdir(parents=True)
    (entry / RECORD_FILE).write_bytes(b'{"volume-type":"dir')
    with pytest.raises(CorruptRecord, match=RECORD_FILE):
        writer.read(target)
    writer.add(target, RECORD)
    assert writer.read(target) == RECORD


@pytest.mark.gate("foreign-record-untouched")
async def test_kata_s_own_record_is_not_overwritten(writer, entry, target):
    """A record of a type that we never write is somebody's: refused, and left as it is."""
    entry.mkdir(parents=True)
    theirs = (
        b'{"volume-type":"blk","device":"/d/disk.img","fstype":"ext4","metadata":{"createFilesystem":"true"}}'
    )
    (entry / RECORD_FILE).write_bytes(theirs)
    with pytest.raises(ForeignContent, match="blk"):
        writer.add(target, RECORD)
    assert (entry / RECORD_FILE).read_bytes() == theirs


@pytest.mark.gate("foreign-record-untouched")
async def test_others_entries_stay_as_they_are(writer, root, target):
    """Adding, listing, replacing and removing one target changes not a byte of any other entry."""
    foreign = root / entry_name("/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/scratch")
    foreign.mkdir(parents=True)
    (foreign / RECORD_FILE).write_bytes(b'{"volume-type":"blk","device":"d","fstype":"ext4"}')
    (foreign / "sandbox").touch()
    (root / entry_name(target + "-longer")).mkdir()
    (root / "not base64").write_text("?")
    before = tree(root)
    writer.add(target, RECORD)
    writer.listing()
    writer.add(target, OTHER)
    assert writer.remove(target)
    assert tree(root) == before


async def test_removed_is_gone_with_its_ids(writer, root, entry, target):
    """The whole entry goes: a folder without a record would fail pods of runtime-rs."""
    writer.add(target, RECORD)
    (entry / "sb1").touch()
    (entry / "sb2").touch()
    assert writer.remove(target) is True
    assert writer.read(target) is None
    assert tree(root) == {}
    assert writer.remove(target) is False


async def test_removing_from_nowhere_is_success(writer, root, target):
    """Without a root there was nothing, and none is made."""
    assert writer.remove(target) is False
    assert not root.exists()


async def test_removal_does_not_read(writer, root, entry, target):
    """A torn record, or half an entry, is removed all the same."""
    entry.mkdir(parents=True)
    (entry / "sb").touch()
    assert writer.remove(target) is True
    assert tree(root) == {}


@pytest.mark.parametrize("target", ["", "/", "relative", "/a/../b", "/" + "x" * 189])
@pytest.mark.parametrize("operation", ["add", "remove", "read", "sandbox_ids", "stats", "notify_resize"])
async def test_no_operation_takes_a_bad_target(root, sandboxes, operation, target):
    """The empty path is the root itself: Kata's own Remove("") wipes every record on the node."""
    writer = DirectVolumeWriter(root, sandboxes=sandboxes, shim_client=ScriptedShim(None, None))
    writer.add("/other", RECORD)
    arguments = {"add": (RECORD,), "notify_resize": (1,)}.get(operation, ())

    async def operate():
        answer = getattr(writer, operation)(target, *arguments)
        return await answer if operation in {"stats", "notify_resize"} else answer

    with pytest.raises(InvalidRequest, match="target_path"):
        await operate()
    assert writer.read("/other") == RECORD


@pytest.mark.gate("record-json-for-both-runtimes")
@pytest.mark.parametrize(
    ("record", "field"),
    [
        (DirectVolumeRecord("/dev/x", "ext4", volume_type="block"), "volume-type"),
        (DirectVolumeRecord("dev/x", "ext4"), "device"),
        (DirectVolumeRecord("", "ext4"), "device"),
        (DirectVolumeRecord("/dev/x", ""), "fstype"),
        (DirectVolumeRecord("/dev/\udc80", "ext4"), "device"),
    ],
)
async def test_what_a_runtime_would_refuse_is_not_written(writer, root, target, record, field):
    """A record that works in one runtime only, or in none, is refused by field."""
    with pytest.raises(InvalidRequest) as refusal:
        writer.add(target, record)
    assert refusal.value.field == field
    assert not root.exists()


async def test_a_failed_write_leaves_no_empty_folder(writer, root, target, monkeypatch):
    """A full tmpfs must not leave what fails every container of runtime-rs at that target."""
    monkeypatch.setattr(files, "write_atomically_via", failing)
    with pytest.raises(HostError, match="no space"):
        writer.add(target, RECORD)
    assert tree(root) == {}


async def test_a_failed_write_keeps_what_was_there(writer, entry, target, monkeypatch):
    """Sandbox ids, and the record before, survive a failed replacement."""
    writer.add(target, RECORD)
    (entry / "sb").touch()
    monkeypatch.setattr(files, "write_atomically_via", failing)
    with pytest.raises(HostError, match="no space"):
        writer.add(target, OTHER)
    assert writer.read(target) == RECORD
    assert writer.sandbox_ids(target) == ["sb"]


def failing(*_args, **_kwargs):
    raise HostError("no space")


async def test_what_a_crash_left_is_cleared(writer, root, target):
    """The temporary file of a writer that was killed goes with the next write, and with removal."""
    for finish in (partial(writer.add, target, RECORD), partial(writer.remove, target)):
        left = root / temporary_entry_name(target)
        left.mkdir(parents=True)
        (left / ".tmp-1234").write_bytes(b"{")
        finish()
        assert not left.exists()


async def test_a_write_shows_others_only_what_they_can_skip(writer, root, entry, target, monkeypatch):
    """While a record is being written, the root holds folders with base64 names, and no torn record.

    azuredisk's lister, which shares the root, gives up on anything else; and a file beside the record would
    be a sandbox id to Kata.
    """
    seen = []
    write = files.write_atomically_via

    def looking(path, data, *, temporary_directory, mode):
        assert temporary_directory.parent == root
        (temporary_directory / ".tmp-other").write_bytes(b"{")  # as if a crash left one now
        seen.extend(root.iterdir())
        assert list(entry.iterdir()) == []
        assert not (temporary_directory / RECORD_FILE).exists()
        write(path, data, temporary_directory=temporary_directory, mode=mode)

    monkeypatch.setattr(files, "write_atomically_via", looking)
    writer.add(target, RECORD)
    assert {path.name for path in seen} == {entry.name, temporary_entry_name(target)}
    assert all(path.is_dir() for path in [entry])
    assert all(decoded(path.name) for path in seen)


async def test_readers_meet_the_old_or_the_new(writer, entry, target):
    """Replaced over and over, the record is there and whole at each look."""
    writer.add(target, RECORD)
    whole = {RECORD.to_json(), OTHER.to_json()}
    stop = threading.Event()
    torn = []

    def look():
        while not stop.is_set():
            data = (entry / RECORD_FILE).read_bytes()
            if data not in whole or list(entry.iterdir()) != [entry / RECORD_FILE]:
                torn.append(data)

    looking = asyncio.create_task(asyncio.to_thread(look))
    for _ in range(50):
        writer.add(target, OTHER)
        writer.add(target, RECORD)
    stop.set()
    await looking
    assert torn == []


async def test_listing_tells_all_and_trips_over_nothing(writer, root, target):
    """Each foreign, torn or unreadable entry is one line with its problem; our own are whole."""
    assert writer.listing() == []
    writer.add(target, RECORD)
    (root / entry_name(target) / "sb").touch()
    (root / "not base64").mkdir()
    (root / entry_name("/empty")).mkdir()
    (root / entry_name("/file")).touch()
    torn = root / entry_name("/torn")
    torn.mkdir()
    (torn / RECORD_FILE).write_bytes(b"{")
    folder = root / entry_name("/folder") / RECORD_FILE
    folder.mkdir(parents=True)
    pipe = root / entry_name("/pipe")
    pipe.mkdir()
    os.mkfifo(pipe / RECORD_FILE)
    (root / temporary_entry_name(target)).mkdir()

    entries = {entry.target or entry.name: entry for entry in writer.listing()}
    assert set(entries) == {target, "not base64", "/empty", "/file", "/torn", "/folder", "/pipe"}
    ours = entries.pop(target)
    assert (ours.record, ours.problem, ours.sandbox_ids) == (RECORD, "", ("sb",))
    for entry in entries.values():
        assert entry.record is None
        assert entry.problem
    assert "encoding" in entries["not base64"].problem
    assert "not JSON" in entries["/torn"].problem


async def test_foreign_records_are_listed_with_what_they_say(writer, root):
    """A type that is not ours is read like any other; whose it is decides the caller."""
    entry = root / entry_name("/emptydir")
    entry.mkdir(parents=True)
    (entry / RECORD_FILE).write_bytes(b'{"volume-type":"blk","device":"d","fstype":"ext4"}')
    (found,) = writer.listing()
    assert (found.record.volume_type, found.problem) == ("blk", "")


class ScriptedShim:
    """A client whose answers are given beforehand."""

    def __init__(self, stats, resized):
        self._stats = stats
        self._resized = resized
        self.asked = []

    async def stats(self, sandbox, device):
        self.asked.append((sandbox.id, device))
        if self._stats is None:
            raise Unavailable("no numbers")
        return self._stats

    async def resize(self, sandbox, device, size_bytes):
        self.asked.append((sandbox.id, device, size_bytes))
        if error := self._resized[sandbox.id]:
            raise error


async def test_without_a_live_sandbox_nobody_is_asked(root, sandboxes, shims, entry, target):
    """Stale ids are no sandbox: no stats, and the outcome says so."""
    client = ScriptedShim(STATS, {})
    writer = DirectVolumeWriter(root, sandboxes=sandboxes, shim_client=client)
    assert await writer.stats(target) is None
    assert await writer.notify_resize(target, 1) is ResizeOutcome.NO_LIVE_SANDBOX
    writer.add(target, RECORD)
    (entry / "dead").touch()
    assert await writer.stats(target) is None
    assert await writer.notify_resize(target, 1) is ResizeOutcome.NO_LIVE_SANDBOX
    assert client.asked == []


@pytest.mark.gate("expand-never-lies")
async def test_without_a_client_no_resize_is_claimed(writer, shims, entry, target):
    """A live guest that cannot be told keeps its old size, and that is the answer."""
    writer.add(target, RECORD)
    (entry / "sb").touch()
    await shims.start("sb")
    assert await writer.notify_resize(target, 1 << 30) is ResizeOutcome.UNSUPPORTED
    assert await writer.stats(target) is None


async def test_a_shim_is_asked_by_the_device_of_the_record(root, sandboxes, shims, entry, target):
    """Kata compares the device with the text it read when the container started."""
    client = ScriptedShim(STATS, {"sb": None})
    writer = DirectVolumeWriter(root, sandboxes=sandboxes, shim_client=client)
    writer.add(target, RECORD)
    (entry / "sb").touch()
    await shims.start("sb")
    assert await writer.stats(target) == STATS
    assert await writer.notify_resize(target, 5) is ResizeOutcome.DONE
    question, change = ("sb", "/dev/katacsi"), ("sb", "/dev/katacsi", 5)
    assert client.asked == [question, question, change, question]


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize(
    ("refusal", "outcome"),
    [(Unsupported("no"), ResizeOutcome.UNSUPPORTED), (Unavailable("?"), ResizeOutcome.UNKNOWN)],
)
async def test_one_guest_that_did_not_grow_is_enough(root, shims, target, refusal, outcome):
    """With two live sandboxes, done means that both have the new size."""
    outcomes = {"a": None, "b": refusal}
    writer = DirectVolumeWriter(
        root, sandboxes=shims.sandboxes(root), shim_client=ScriptedShim(None, outcomes)
    )
    writer.add(target, RECORD)
    for sandbox_id in outcomes:
        (root / entry_name(target) / sandbox_id).touch()
        await shims.start(sandbox_id)
    assert await writer.notify_resize(target, 5) is outcome
