"""Which sandboxes are alive."""

import os
import socket

import pytest

from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.directvolume.shim import Dialect
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
    assert sandboxes.live(target) == []


async def test_the_living_is_told_from_the_dead(sandboxes, shims, entry, target):
    """Of all ids that a pod's sandboxes left, the one whose shim listens is found, with its runtime."""
    for sandbox_id in ("crashed", "live", "gone", "plainfile"):
        (entry / sandbox_id).touch()
    await shims.crash("crashed")
    await shims.start("live")
    (shims.go / "plainfile").mkdir()
    (shims.go / "plainfile" / "shim-monitor.sock").touch()
    (found,) = sandboxes.live(target)
    assert (found.id, found.dialect) == ("live", Dialect.GO)
    assert found.socket == shims.go / "live" / "shim-monitor.sock"


async def test_shims_of_runtime_rs_are_found_by_their_socket(sandboxes, shims, entry, target):
    """An id whose socket lies where runtime-rs has it speaks the other dialect."""
    (entry / "rs").touch()
    await shims.start("rs", folder=shims.rust)
    assert [sandbox.dialect for sandbox in sandboxes.live(target)] == [Dialect.RUST]


async def test_sandboxes_of_other_targets_do_not_count(sandboxes, shims, entry, target):
    """A live shim without an id beside this record uses some other volume."""
    await shims.start("other")
    assert sandboxes.live(target) == []


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
        waiting = shims.sandboxes(root)
        assert [sandbox.id for sandbox in waiting.live(target)] == ["busy"]


async def test_a_socket_that_tells_nothing_is_alive(sandboxes, shims, entry, target):
    """Only a refusal, or no socket, is death; any other error leaves it open, so it counts as alive."""
    (entry / "odd").touch()
    folder = shims.go / "odd"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(folder / "shim-monitor.sock"))
        assert [sandbox.id for sandbox in sandboxes.live(target)] == ["odd"]


async def test_no_path_is_no_target(sandboxes):
    """Discovery keeps the rules for targets, too."""
    with pytest.raises(InvalidRequest):
        sandboxes.live("")


# -- runtime-rs, which leaves no id --------------------------------------------------------------------


@pytest.mark.parametrize("key", ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"])
async def test_a_sandbox_without_an_id_file_is_found_by_its_containers(sandboxes, shims, target, key):
    """runtime-rs leaves nothing beside the record: the container's bundle names the sandbox."""
    shims.bundle("c1", "rs1", (target, "/data"), key=key)
    shims.bundle("c2", "rs2", (target + "/sub", "/data"), (target[:-1], "/x"), key=key)
    for sandbox in ("rs1", "rs2"):
        await shims.start(sandbox, folder=shims.rust)
    (found,) = sandboxes.live(target)
    assert (found.id, found.dialect) == ("rs1", Dialect.RUST)
    assert found.socket == shims.rust / "rs1" / "shim-monitor.sock"


async def test_a_bundle_of_a_dead_sandbox_is_no_life(sandboxes, shims, target):
    """A bundle may outlive its shim; who does not listen does not live."""
    shims.bundle("c1", "gone", (target, "/data"))
    await shims.crash("gone", folder=shims.rust)
    assert sandboxes.live(target) == []


async def test_a_sandbox_that_is_known_twice_is_one(sandboxes, shims, entry, target):
    """An id file and two bundles, and still one sandbox to ask."""
    (entry / "sb").touch()
    shims.bundle("c1", "sb", (target, "/data"))
    shims.bundle("c2", "sb", (target, "/data"))
    await shims.start("sb")
    assert [sandbox.id for sandbox in sandboxes.live(target)] == ["sb"]


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("target", ["/pods/a&b<c>/mount", "/pods/ä\u2028/mount", '/pods/"q"\\/mount'])
async def test_a_target_is_found_however_it_is_written(sandboxes, shims, target, escaped):
    """Go's JSON escapes signs that other writers leave alone."""
    shims.bundle("c1", "rs", (target, "/data"), escaped=escaped)
    await shims.start("rs", folder=shims.rust)
    assert len(sandboxes.live(target)) == 1


@pytest.mark.parametrize("name", [".", "..", "../x", "a/b", "-x"])
async def test_an_annotation_is_no_way_to_other_sockets(sandboxes, shims, target, name):
    """What is no sandbox id does not become part of a path, whoever listens there."""
    shims.bundle("c1", name, (target, "/data"))
    shims.rust.mkdir()
    await shims.start(name, folder=shims.rust)
    seen = sandboxes.sighted(target)
    assert (seen.live, seen.doubts) == ((), ())


@pytest.mark.parametrize(
    "content",
    [b"", b'{"mounts":[{"sou', b"{} trailing", b'{"mounts":["TARGET"] "}', b"x" * (5 << 20)],
    ids=["empty", "torn", "trailing", "no-json", "huge"],
)
async def test_a_bundle_that_cannot_be_read_is_a_doubt(sandboxes, shims, target, content):
    """It may be the one that names the target: unknown, not absent. What is known stays known."""
    file = shims.bundle("c1", "rs", (target, "/data"))
    shims.bundle("c2", "other", (target, "/data"))
    shims.guest_folder("other", "0123456789-89abcdef-data")
    for sandbox in ("rs", "other"):
        await shims.start(sandbox, folder=shims.rust)
    file.write_bytes(content.replace(b"TARGET", target.encode()))
    seen = sandboxes.sighted(target)
    assert [sandbox.id for sandbox in seen.live] == ["other"]
    assert len(seen.doubts) == 1
    assert seen.live[0].guest_paths == ()


async def test_what_is_no_bundle_is_a_doubt(sandboxes, shims, target):
    """A folder in the file's place cannot be read; one without the file has no container."""
    (shims.bundles / "odd" / "config.json").mkdir(parents=True)
    (shims.bundles / "going").mkdir()
    (shims.bundles / "file").touch()
    (doubt,) = (sandboxes.sighted(target)).doubts
    assert "odd/config.json" in doubt


async def test_without_bundles_there_is_no_doubt(sandboxes, target):
    """A runtime that is not there, or not shown to us, is told by nothing."""
    seen = sandboxes.sighted(target)
    assert (seen.live, seen.doubts) == ((), ())


# -- where a guest of runtime-rs has the volume --------------------------------------------------------


@pytest.fixture
async def rust(shims):
    """A live sandbox of runtime-rs."""
    await shims.start("rs", folder=shims.rust)
    return "rs"


async def guest_paths(sandboxes, target):
    (found,) = sandboxes.live(target)
    return found.guest_paths


async def test_folders_of_the_volume_s_name_may_be_its(sandboxes, shims, rust, target):
    """The folders that runtime-rs made for block devices at the container's path, the newest first."""
    shims.bundle("c1", rust, (target, "/var/lib/data"), ("/etc/hosts", "/etc/hosts"))
    names = ("0123456789-89abcdef-data", "0123456789-00000000-data")
    old, new = [shims.guest_folder(rust, name) for name in names]
    os.utime(shims.shared / rust / "rw" / "passthrough" / names[0], (1, 1))
    for other in (
        "sandbox-89abcdef-data",  # shared by virtio-fs
        "0123456789-89abcdef-data2",
        "0123456789-89abcdef-x-data",
        "0123456789-89abcdeX-data",
        "012345678-89abcdef-data",
        "data",
    ):
        shims.guest_folder(rust, other)
    shims.guest_folder("elsewhere", "0123456789-11111111-data")
    assert await guest_paths(sandboxes, target) == (new, old)


@pytest.mark.gate("stats-of-direct-are-not-the-host-s")
@pytest.mark.parametrize("container", ["c1", "c2"], ids=["same-container", "other-container"])
async def test_a_name_that_another_volume_has_too_is_no_way(sandboxes, shims, rust, target, container):
    """Where two volumes of a pod end in the same name, a folder may be either's: none is asked for."""
    mine, other = (target, "/a/data"), ("/pods/other/mount", "/b/data")
    if container == "c1":
        shims.bundle("c1", rust, mine, other)
    else:
        shims.bundle("c1", rust, mine)
        shims.bundle("c2", rust, other)
    shims.guest_folder(rust, "0123456789-89abcdef-data")
    assert await guest_paths(sandboxes, target) == ()


async def test_other_pods_names_are_no_matter(sandboxes, shims, rust, target):
    """Every pod of the node may call its volume `data`."""
    shims.bundle("c1", rust, (target, "/data"))
    shims.bundle("c2", "another", ("/pods/other/mount", "/data"))
    path = shims.guest_folder(rust, "0123456789-89abcdef-data")
    assert await guest_paths(sandboxes, target) == (path,)


async def test_a_volume_at_two_paths_is_looked_for_at_both(sandboxes, shims, rust, target):
    """Two containers of a pod may have it under two names."""
    shims.bundle("c1", rust, (target, "/data"))
    shims.bundle("c2", rust, (target, "/cache"))
    paths = {shims.guest_folder(rust, f"0123456789-89abcdef-{name}") for name in ("data", "cache")}
    assert set(await guest_paths(sandboxes, target)) == paths


async def test_a_container_that_restarts_for_ever_is_no_load(sandboxes, shims, rust, target):
    """Each start leaves a folder; a few of the newest are asked for."""
    shims.bundle("c1", rust, (target, "/data"))
    for number in range(50):
        name = f"0123456789-{number:08x}-data"
        shims.guest_folder(rust, name)
        os.utime(shims.shared / rust / "rw" / "passthrough" / name, (number, number))
    paths = await guest_paths(sandboxes, target)
    assert [path[-7:-5] for path in paths] == ["31", "30", "2f", "2e", "2d", "2c", "2b", "2a"]
