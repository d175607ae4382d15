"""Both dialects, spoken to shims that answer byte for byte as the real ones."""

import asyncio
import subprocess

import pytest

from katacsi.directvolume.shim import Dialect, GuestStats, Sandbox
from katacsi.directvolume.shim_client import HttpShimClient
from katacsi.errors import Unavailable, Unsupported
from katacsi.host import superblock
from support.shims import Agent, AgentError, GoShim, Numbers, RustShim

MIB = 1 << 20
GUEST = "/run/kata-containers/shared/containers/passthrough/0123456789-89abcdef-data"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Filesystems as devices have them, made once."""
    folder = tmp_path_factory.mktemp("images")
    for name, size, *mkfs in (
        ("ext4", 16 * MIB, "mkfs.ext4", "-q"),
        ("xfs", 304 * MIB, "mkfs.xfs", "-q"),
        ("blank", 16 * MIB, "true"),
    ):
        with (folder / name).open("wb") as file:
            file.truncate(size)
        subprocess.run([*mkfs, folder / name], check=True)
    return folder


def numbers_of(image):
    """What a guest would count on an image: half full."""
    found = superblock.read(image)
    total = found.size_bytes - (found.log_bytes or MIB)
    inodes = found.inodes or 4096
    return Numbers(total, total // 2, inodes, inodes // 2)


def stats_of(numbers):
    """What the client makes of them."""
    free, total = numbers.available_bytes, numbers.total_bytes
    free_inodes, inodes = numbers.available_inodes, numbers.total_inodes
    return GuestStats(total, free, total - free, inodes, free_inodes, inodes - free_inodes)


@pytest.fixture
def socket(shims):
    """Where the shim of the test listens."""
    return shims.folder / "sb" / "shim-monitor.sock"


@pytest.fixture
def observed():
    """What was told of requests: dialect and outcome."""
    return []


@pytest.fixture
def client(observed):
    """A client with a short deadline."""
    return HttpShimClient(
        timeout_s=2, observe=lambda dialect, outcome, _: observed.append((dialect, outcome))
    )


# -- Go ------------------------------------------------------------------------------------------------


@pytest.fixture
def go(socket):
    """A sandbox of the Go runtime."""
    return Sandbox("sb", Dialect.GO, socket)


@pytest.mark.parametrize("image", ["ext4", "xfs"])
async def test_go_tells_by_device(client, observed, images, go, image):
    """The shim maps the device to where its guest has it, and the numbers come back."""
    device, wanted = str(images / image), numbers_of(images / image)
    agent = Agent(stats={"/guest": wanted}.__getitem__)
    async with GoShim(go.socket, agent, {device: "/guest"}) as shim:
        assert await client.stats(go, device) == stats_of(wanted)
    (request,) = shim.requests
    assert (request.method, request.body) == ("GET", b"")
    assert agent.asked == [("stats", "/guest")]
    assert observed == [("go", "ok")]


@pytest.mark.parametrize("name", ["a+b", "a%2Fb", "a&b=c", "50%", "a b", "ä#?;"])
async def test_go_s_device_may_have_any_name(client, tmp_path, images, go, name):
    """The shim unescapes twice; LVM allows `+`, and a folder anything."""
    device = tmp_path / name
    device.write_bytes((images / "ext4").read_bytes())
    wanted = numbers_of(device)
    async with GoShim(go.socket, Agent(stats=lambda _: wanted), {str(device): "/guest"}):
        assert await client.stats(go, str(device)) == stats_of(wanted)


async def test_go_leaves_out_zeroes(client, images, go):
    """A full filesystem has no `available` in the answer."""
    whole = numbers_of(images / "ext4")
    full = Numbers(whole.total_bytes, 0, whole.total_inodes, 0)
    device = str(images / "ext4")
    async with GoShim(go.socket, Agent(stats=lambda _: full), {device: "/guest"}):
        stats = await client.stats(go, device)
    assert (stats.available_bytes, stats.used_bytes) == (0, full.total_bytes)


async def test_go_that_does_not_have_the_volume_cannot_tell(client, observed, images, go):
    """Before its container started the sandbox answers 500: no numbers, and the reason is kept."""
    async with GoShim(go.socket, Agent()):
        with pytest.raises(Unavailable, match=r"500: mount .*ext4 not found in sandbox"):
            await client.stats(go, str(images / "ext4"))
        with pytest.raises(Unavailable, match="not found in sandbox"):
            await client.resize(go, str(images / "ext4"), MIB)
        with pytest.raises(Unavailable, match="stat /nowhere"):
            await client.stats(go, "/nowhere")
    assert set(observed) == {("go", "refused")}


async def test_go_s_numbers_of_something_else_are_ignored(client, images, go):
    """After its mount is gone the guest's path shows the guest's own disk."""
    device = str(images / "ext4")
    own = Numbers(MIB, MIB, 4321, 4321)
    async with GoShim(go.socket, Agent(stats=lambda _: own), {device: "/guest"}):
        with pytest.raises(Unavailable, match="not those of"):
            await client.stats(go, device)


async def test_stock_go_cannot_resize(client, images, go):
    """The agent of every release answers UNIMPLEMENTED: that is a clear no."""
    device = str(images / "ext4")
    agent = Agent()
    async with GoShim(go.socket, agent, {device: "/guest"}) as shim:
        with pytest.raises(Unsupported, match="resize_volume is not implemented"):
            await client.resize(go, device, 32 * MIB)
    assert agent.asked == [("resize", "/guest", 32 * MIB)]
    assert shim.requests[0].method == "POST"


async def test_a_go_runtime_that_can_resize_does(client, images, go):
    """200 is success."""
    device = str(images / "ext4")
    grown = []
    agent = Agent(resize=lambda path, size: grown.append((path, size)))
    async with GoShim(go.socket, agent, {device: "/guest"}):
        await client.resize(go, device, 1 << 63)
    assert grown == [("/guest", 1 << 63)]


def other_answer(socket, body):
    """A Go shim whose every answer is a 200 with this body."""

    class Odd(GoShim):
        async def _answer(self, request):
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    return Odd(socket, Agent())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"usage":null}',
        b'{"usage":[{"total":9,"unit":1}]}',
        b'{"usage":[{"total":9,"unit":2}]}',
        b'{"usage":[{"unit":1},{"unit":2}]}',
        b'{"usage":[{"total":-9,"unit":1},{"unit":2}]}',
        b'{"usage":[{"total":"9","unit":1},{"unit":2}]}',
        b'{"usage":[{"total":9.5,"unit":1},{"unit":2}]}',
        b'{"usage":[{"total":true,"unit":1},{"unit":2}]}',
        b'{"usage":[{"total":9,"used":10,"unit":1},{"unit":2}]}',
        b'{"usage":[{"total":9,"available":10,"unit":1},{"unit":2}]}',
        b'{"usage":[{"total":9,"unit":1},{"unit":2}]',
        b"\xff\xfe",
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
async def test_an_odd_answer_is_no_answer(client, go, body):
    """Whatever does not say bytes and inodes, in counts, says nothing."""
    async with other_answer(go.socket, body):
        with pytest.raises(Unavailable, match="sandbox sb"):
            await client.stats(go, "/dev/katacsi")


# -- runtime-rs ----------------------------------------------------------------------------------------


def rust(socket, *paths):
    """A sandbox of runtime-rs whose guest may have the volume at these paths."""
    return Sandbox("sb", Dialect.RUST, socket, paths)


@pytest.mark.parametrize("image", ["ext4", "xfs"])
async def test_runtime_rs_tells_by_guest_path(client, observed, images, socket, image):
    """The guest's path is asked for, in the absolute form, and the text is read."""
    wanted = numbers_of(images / image)
    async with RustShim(socket, Agent(stats={GUEST: wanted}.__getitem__)) as shim:
        assert await client.stats(rust(socket, GUEST), str(images / image)) == stats_of(wanted)
    (request,) = shim.requests
    assert request.method == "POST"
    assert request.uri.startswith("http://shim/direct-volume/stats?path=%2Frun%2F")
    assert observed == [("rust", "ok")]


async def test_a_name_with_signs_reaches_the_agent_as_it_is(client, images, socket):
    """runtime-rs unescapes once."""
    path = f"{GUEST}+%2F &ä"
    agent = Agent(stats=lambda _: numbers_of(images / "ext4"))
    async with RustShim(socket, agent):
        await client.stats(rust(socket, path), str(images / "ext4"))
    assert agent.asked == [("stats", path)]


def answers(table):
    """An agent that knows these paths."""

    def stats(path):
        if path not in table:
            raise AgentError("Internal", "No such file or directory (os error 2)")
        return table[path]

    return Agent(stats=stats)


HOST = Numbers(13 * MIB, 13 * MIB, 999_999, 999_000)


@pytest.mark.gate("stats-of-direct-are-not-the-host-s")
@pytest.mark.parametrize(
    "other",
    [
        HOST,
        Numbers(17 * MIB, MIB, 4096, 1),
        Numbers(15 * MIB, MIB, 4095, 1),
        Numbers(15 * MIB, MIB, 4096 + 4096, 1),
    ],
    ids=["the-node-s-disk", "larger-than-the-device", "other-inodes", "grown-beyond"],
)
async def test_numbers_that_cannot_be_the_volume_s_are_not_given(client, images, socket, other):
    """The folder of a container that is gone shows the node's disk, through virtio-fs: nothing is told."""
    async with RustShim(socket, answers({GUEST: other})):
        with pytest.raises(Unavailable, match="nothing shows where"):
            await client.stats(rust(socket, GUEST), str(images / "ext4"))


async def test_the_proven_path_is_found_among_stale_ones(client, images, socket):
    """Of the folders that restarts have left, the one with the volume's filesystem is taken."""
    gone, stale = GUEST.replace("89abcdef", "00000000"), GUEST.replace("89abcdef", "11111111")
    wanted = numbers_of(images / "ext4")
    async with RustShim(socket, answers({stale: HOST, GUEST: wanted})):
        stats = await client.stats(rust(socket, gone, stale, GUEST), str(images / "ext4"))
    assert stats == stats_of(wanted)


async def test_one_device_in_two_containers_is_no_doubt(client, images, socket):
    """runtime-rs mounts a device once a container; both folders begin with the device's id."""
    second = GUEST.replace("89abcdef", "00000000")
    wanted = numbers_of(images / "ext4")
    async with RustShim(socket, answers({second: wanted, GUEST: wanted})):
        assert await client.stats(rust(socket, second, GUEST), str(images / "ext4")) == stats_of(wanted)


@pytest.mark.gate("stats-of-direct-are-not-the-host-s")
async def test_two_devices_that_look_alike_are_a_doubt(client, images, socket):
    """When another device's filesystem cannot be told from the volume's, nothing is told or grown."""
    twin = GUEST.replace("0123456789", "abcdef0123")
    wanted = numbers_of(images / "ext4")
    agent = answers({twin: wanted, GUEST: wanted})
    agent.resize = lambda *_: pytest.fail("a volume was grown on a guess")
    async with RustShim(socket, agent):
        for question in (
            client.stats(rust(socket, twin, GUEST), str(images / "ext4")),
            client.resize(rust(socket, twin, GUEST), str(images / "ext4"), 32 * MIB),
        ):
            with pytest.raises(Unavailable, match="2 devices"):
                await question


async def test_without_anything_to_compare_with_nothing_is_asked(client, images, socket):
    """A device that the host cannot read proves no path."""
    async with RustShim(socket, answers({GUEST: HOST})) as shim:
        for device in (images / "blank", "/nowhere"):
            with pytest.raises(Unavailable, match="compare"):
                await client.stats(rust(socket, GUEST), str(device))
        with pytest.raises(Unavailable, match="nothing shows where"):
            await client.stats(rust(socket), str(images / "ext4"))
    assert shim.requests == []


async def test_runtime_rs_drops_the_connection_on_every_failure(client, observed, images, socket):
    """Stock runtime-rs says nothing when it cannot resize: not known, and not done."""
    wanted = numbers_of(images / "ext4")
    async with RustShim(socket, answers({GUEST: wanted})):
        with pytest.raises(Unavailable, match="without an answer"):
            await client.resize(rust(socket, GUEST), str(images / "ext4"), 32 * MIB)
    async with RustShim(socket, Agent()):
        with pytest.raises(Unavailable, match="without an answer"):
            await client.stats(rust(socket, GUEST), str(images / "ext4"))
    assert observed == [("rust", "ok"), ("rust", "failed"), ("rust", "failed")]


async def test_a_runtime_rs_that_can_resize_does(client, images, socket):
    """It is told the proven guest path and the bytes."""
    grown = []
    agent = answers({GUEST: numbers_of(images / "ext4")})
    agent.resize = lambda path, size: grown.append((path, size))
    async with RustShim(socket, agent):
        await client.resize(rust(socket, GUEST), str(images / "ext4"), 32 * MIB)
    assert grown == [(GUEST, 32 * MIB)]


async def test_many_paths_share_one_deadline(images, socket):
    """A guest that hangs is left after one deadline, however many paths there are to ask for."""
    agent = Agent(stats=lambda _: asyncio.sleep(60))
    paths = [GUEST.replace("89abcdef", f"0000000{number}") for number in range(8)]
    async with RustShim(socket, agent), asyncio.timeout(5):
        with pytest.raises(Unavailable, match="no answer within"):
            await HttpShimClient(timeout_s=0.3).stats(rust(socket, *paths), str(images / "ext4"))
    assert len(agent.asked) < 8


# -- the shims of the tests ----------------------------------------------------------------------------


async def test_the_dialects_do_not_understand_each_other(client, images, socket):
    """What is right for one shim is refused by the other, as in Kata: asking both ways is no way out."""
    device = str(images / "ext4")
    wanted = numbers_of(images / "ext4")
    async with RustShim(socket, answers({device: wanted})):
        with pytest.raises(Unavailable, match="404: URL NOT FOUND"):
            await client.stats(Sandbox("sb", Dialect.GO, socket), device)
        with pytest.raises(Unavailable, match="without an answer"):
            await client.resize(Sandbox("sb", Dialect.GO, socket), device, MIB)
    async with GoShim(socket, answers({GUEST: wanted}), {device: GUEST}):
        with pytest.raises(Unavailable, match=r"not found in sandbox|no such file"):
            await client.stats(rust(socket, GUEST), device)
