"""What a target's guests say together, and what is believed of it."""

import asyncio

import pytest

from katacsi.directvolume.names import entry_name
from katacsi.directvolume.proof import OnDevice
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.shim import GuestStats, ResizeOutcome
from katacsi.directvolume.shim_client import HttpShimClient
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import NotFound, Unavailable
from katacsi.host.superblock import Superblock
from support.shims import Agent, AgentError, GoShim, Numbers

MIB = 1 << 20


@pytest.fixture
def device(tmp_path):
    """A device that is there, and on which the host sees nothing."""
    path = tmp_path / "device"
    path.write_bytes(bytes(MIB))
    return str(path)


@pytest.fixture
async def writer(root, shims, target, device):
    """A writer that asks, and a record."""
    writer = DirectVolumeWriter(
        root, sandboxes=shims.sandboxes(root), shim_client=HttpShimClient(timeout_s=0.5)
    )
    writer.add(target, DirectVolumeRecord(device, "ext4"))
    return writer


@pytest.fixture
def shim(root, shims, target, device):
    """Make a Go shim that has the volume."""

    def make(sandbox, agent):
        (root / entry_name(target) / sandbox).touch()
        return GoShim(shims.go / sandbox / "shim-monitor.sock", agent, {device: "/guest"})

    return make


def telling(total):
    return Agent(stats=lambda _: Numbers(total, 0, 10, 5))


async def hang(*_):
    await asyncio.sleep(60)


async def test_the_living_one_tells(writer, shims, root, shim, target):
    """Ids of dead sandboxes are passed over, in whatever order they come."""
    for sandbox in ("a-gone", "z-gone"):
        (root / entry_name(target) / sandbox).touch()
    await shims.crash("z-gone")
    async with shim("live", telling(7)):
        assert (await writer.stats(target)).total_bytes == 7


async def test_one_that_hangs_holds_up_no_other(writer, shim, target):
    """The answer of the second sandbox comes before the first one's deadline."""
    asked = asyncio.Event()

    async def late(_):
        asked.set()
        await hang()

    async def after(_):
        await asked.wait()
        return Numbers(7, 0, 10, 5)

    patient = HttpShimClient(timeout_s=60)
    writer = DirectVolumeWriter(writer._root, sandboxes=writer._sandboxes, shim_client=patient)
    async with shim("a", Agent(stats=late)), shim("b", Agent(stats=after)), asyncio.timeout(10):
        assert (await writer.stats(target)).total_bytes == 7


async def test_one_that_cannot_tell_is_passed_over(writer, shim, target):
    """A sandbox that does not have the volume (yet) says so, and the next is taken."""
    broken = shim("a", Agent())
    broken.mounts.clear()
    async with broken, shim("b", telling(7)):
        assert (await writer.stats(target)).total_bytes == 7


async def test_when_none_can_tell_each_reason_is_kept(writer, shim, target):
    """Nothing is known, within the deadline; a person gets to read why."""
    async with shim("a", Agent()), shim("b", Agent(stats=hang)), asyncio.timeout(10):
        assert await writer.stats(target) is None
        with pytest.raises(Unavailable) as silence:
            await writer.ask_stats(target)
    assert "sandbox a (go): answered 500: rpc error" in silence.value.message
    assert "sandbox b (go)" in silence.value.message
    assert "no answer within 0.5 s" in silence.value.message


async def test_without_a_record_or_a_sandbox(writer, target):
    """The two are told apart for a person, and are both nothing to the kubelet."""
    with pytest.raises(Unavailable, match="no live sandbox"):
        await writer.ask_stats(target)
    writer.remove(target)
    with pytest.raises(NotFound, match="no record"):
        await writer.ask_stats(target)
    assert await writer.stats(target) is None


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize(
    "case",
    [
        (lambda *_: None, ResizeOutcome.DONE, None),
        (Agent().resize, ResizeOutcome.UNSUPPORTED, "not implemented"),
        (hang, ResizeOutcome.UNKNOWN, "no answer within"),
    ],
    ids=["can", "stock", "hangs"],
)
async def test_what_comes_of_a_resize(writer, shim, target, case):
    """Done is what a runtime says is done; a deadline is nothing to build on."""
    resize, outcome, reason = case
    agent = telling(7)
    agent.resize = resize
    async with shim("sb", agent), asyncio.timeout(10):
        resizing = await writer.ask_resize(target, 32 * MIB)
        assert await writer.notify_resize(target, 32 * MIB) is outcome
    assert resizing.outcome is outcome
    assert all(reason in text for text in resizing.reasons)
    assert len(resizing.reasons) == (reason is not None)


@pytest.mark.gate("expand-never-lies")
async def test_one_of_two_guests_is_not_enough(writer, shim, target):
    """A second live sandbox that did not grow holds the outcome back, whichever it is."""

    def refuses(*_):
        raise AgentError("Internal", "resize2fs failed")

    able, unable = telling(7), telling(7)
    able.resize, unable.resize = (lambda *_: None), refuses
    async with shim("a", able), shim("b", unable):
        resizing = await writer.ask_resize(target, 32 * MIB)
    assert resizing.outcome is ResizeOutcome.UNKNOWN
    assert "sandbox b (go): answered 500" in resizing.reasons[0]


# -- what is believed ----------------------------------------------------------------------------------

EXT4 = Superblock("ext4", "", 128 * MIB, 4096, True, 4096, inodes=32768, inodes_per_group=32768)
XFS = Superblock("xfs", "", 304 * MIB, 4096, True, 4096, log_bytes=64 * MIB)


def counted(total, inodes=0):
    return GuestStats(total, 0, total, inodes, 0, inodes)


@pytest.mark.parametrize(
    ("found", "device", "stats", "shown"),
    [
        (EXT4, 128, counted(120 * MIB, 32768), True),
        (EXT4, 128, counted(120 * MIB, 65536), False),
        (EXT4, 256, counted(240 * MIB, 65536), True),
        (EXT4, 256, counted(240 * MIB, 65537), False),
        (EXT4, 256, counted(240 * MIB, 0), False),
        (EXT4, 256, counted(257 * MIB, 65536), False),
        (XFS, 304, counted(240 * MIB, 5), True),
        (XFS, 304, counted(241 * MIB, 5), False),
        (XFS, 304, counted(239 * MIB, 5), False),
        (XFS, 400, counted(300 * MIB, 5), True),
        (XFS, 400, counted(239 * MIB, 5), False),
        (XFS, 400, counted(401 * MIB, 5), False),
    ],
)
def test_whose_numbers_they_are(found, device, stats, shown):
    """A filesystem's numbers are its own: exact, unless it may have grown on a larger device."""
    assert OnDevice(found, device * MIB).shows(stats) is shown


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize(
    ("before", "after", "size", "reached"),
    [
        (120, 240, 256, True),
        (120, 236, 256, True),
        (120, 120, 256, False),
        (120, 180, 256, False),
        (120, 120, 128, True),
        (120, 120, 132, False),
        (120, 124, 132, True),
        (200, 240, 256, True),
        (200, 199, 256, False),
    ],
    ids=[
        "grown",
        "tables-of-a-last-group",
        "not-at-all",
        "half",
        "nothing-to-grow",
        "a-little-and-not",
        "a-little",
        "superblock-behind",
        "shrunk",
    ],
)
def test_whether_a_guest_has_grown(before, after, size, reached):
    """What a runtime says is held against what its guest counts, in MiB."""
    seen = OnDevice(EXT4, size * MIB)
    assert seen.reached(size * MIB, counted(before * MIB), counted(after * MIB)) is reached
