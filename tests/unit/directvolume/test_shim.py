"""Which sandboxes are alive."""

import asyncio
import socket

import pytest

from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.directvolume.shim import Dialect, Sandboxes
from katacsi.errors import InvalidRequest


@pytest.fixture
def entry(root, target):
    """The folder of a record that Go shims have marked."""
    folder = root / entry_name(target)
    folder.mkdir(parents=True)
    (folder / RECORD_FILE).touch()
    return folder


async def test_without_a_record_nothing_lives(sandboxes, target):
    """No folder means no sandbox, not an error."""
    assert await sandboxes.live(target) == []


async def test_the_living_is_told_from_the_dead(sandboxes, shims, entry, target):
    """Of all ids that a pod's sandboxes left, the one whose shim listens is found, with its runtime."""
    for sandbox_id in ("crashed", "live", "gone", "plainfile"):
        (entry / sandbox_id).touch()
    await shims.crash("crashed")
    await shims.start("live")
    (shims.go / "plainfile").mkdir()
    (shims.go / "plainfile" / "shim-monitor.sock").touch()
    (found,) = await sandboxes.live(target)
    assert (found.id, found.dialect) == ("live", Dialect.GO)
    assert found.socket == shims.go / "live" / "shim-monitor.sock"


async def test_shims_of_runtime_rs_are_found_by_their_socket(sandboxes, shims, entry, target):
    """An id whose socket lies where runtime-rs has it speaks the other dialect."""
    (entry / "rs").touch()
    await shims.start("rs", folder=shims.rust)
    assert [sandbox.dialect for sandbox in await sandboxes.live(target)] == [Dialect.RUST]


async def test_sandboxes_of_other_targets_do_not_count(sandboxes, shims, entry, target):
    """A live shim without an id beside this record uses some other volume."""
    await shims.start("other")
    assert await sandboxes.live(target) == []


async def test_a_shim_that_cannot_answer_now_is_alive(root, shims, entry, target):
    """A full backlog is no death: taking it for one would let a device grow under a guest."""
    (entry / "busy").touch()
    folder = shims.go / "busy"
    folder.mkdir(parents=True)
    path = str(folder / "shim-monitor.sock")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as first,
        socket.socket(socket.AF_UNIX) as second,
    ):
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        second.setblocking(False)
        second.connect_ex(path)
        waiting = Sandboxes(root, go_sockets=shims.go, rust_sockets=shims.rust, timeout_s=0.05)
        async with asyncio.timeout(2):
            assert [sandbox.id for sandbox in await waiting.live(target)] == ["busy"]


async def test_a_socket_that_tells_nothing_is_alive(sandboxes, shims, entry, target):
    """Only a refusal, or no socket, is death; any other error leaves it open, so it counts as alive."""
    (entry / "odd").touch()
    folder = shims.go / "odd"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(folder / "shim-monitor.sock"))
        assert [sandbox.id for sandbox in await sandboxes.live(target)] == ["odd"]


async def test_no_path_is_no_target(sandboxes):
    """Discovery keeps the rules for targets, too."""
    with pytest.raises(InvalidRequest):
        await sandboxes.live("")
