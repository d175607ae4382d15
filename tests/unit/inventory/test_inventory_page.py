"""The inventory of a driver that serves: the page, the JSON, and what they cost the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from katacsi.backends.api import Capacity, Condition, Facts, FormatState, Page, Scope, Volume, VolumeId
from katacsi.errors import PoolUnavailable
from katacsi.httpserver import HttpServer, Request
from katacsi.inventory import answering, looking, page
from katacsi.inventory.answering import InventoryPage
from katacsi.inventory.looking import Lookout
from katacsi.volumes.publish import kubeletpaths
from katacsi.volumes.publish.mark import Published, Staged
from katacsi.volumes.publish.marks import Marks
from katacsi.volumes.publish.mode import Mode

NASTY = '<script>alert("x")</script>&\'\u202e\n'
VOID = {"meta", "br", "link"}


class Disk:
    """A backend of so many volumes, which counts what it is asked."""

    def __init__(self, count: int = 0, names: list[str] | None = None) -> None:
        self.names = names or [f"pvc-{number:04}" for number in range(count)]
        self.pages: list[int] = []
        self.hangs = asyncio.Event()
        self.hangs.set()

    async def list(self, cursor, limit):
        await self.hangs.wait()
        start = int(cursor or 0)
        self.pages.append(limit)
        volumes = tuple(volume(name, number) for number, name in enumerate(self.names))[start : start + limit]
        after = start + len(volumes)
        return Page(volumes, str(after) if after < len(self.names) else "")

    async def capacity(self, parameters):
        return Capacity(7 << 30, 5 << 30)


class APool:
    """A pool of one backend; the parts that an inventory asks."""

    backend_name, scope = "loopfile", Scope.LOCAL

    def __init__(self, name, backend=None, error=None) -> None:
        self.name, self._backend, self._error = name, backend, error

    async def open(self):
        if self._error:
            raise self._error
        return self._backend


def volume(name: str = "pvc-1", number: int = 1, **other) -> Volume:
    facts = Facts(format=FormatState.FORMATTED, fs_type="ext4", pending_size=128 << 20)
    values = {"size_bytes": 64 << 20, "facts": facts, "created_at": 1.7e9}
    return Volume(VolumeId("default", "0a1b2c3d", f"pvc-{number}"), name, **values | other)


def context(marks: Marks, *pools: APool):
    settings = SimpleNamespace(driver_name="local.katacsi.io")
    return SimpleNamespace(settings=settings, node_id="node-1", marks=marks, pools=pools)


@pytest.fixture
def marks(tmp_path):
    """Marks of this boot in a folder of the test's."""
    return Marks(tmp_path)


def publish(marks: Marks, number: int, *, pod: str = "", path: str = "") -> Published:
    path = path or f"/var/lib/kubelet/pods/uid-{number}/volumes/kubernetes.io~csi/pv-{number}/mount"
    volume_id = f"v1:default:0a1b2c3d:pvc-{number}"
    mark = Published(
        path, volume_id, Mode.DIRECT, "mount", "SINGLE_NODE_WRITER", "ext4", (), False, "", "Always",
        "/dev/loop7", "/staging", pod,
    )  # fmt: skip
    marks.add(mark)
    marks.add(
        Staged(
            f"/staging/{number}", volume_id, "mount", "x", "ext4", (), {"token": "s3cret"}, ("/dev/loop7",)
        )
    )
    return mark


async def asked(made: InventoryPage, query: str = "", **headers: str):
    return await made(Request(query, headers))


async def data(made: InventoryPage) -> dict:
    return json.loads((await asked(made, "format=json")).body)


class Structure(HTMLParser):
    """Reads a page strictly: what is opened is closed, and in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.attributes if name == tag]


async def test_the_page_is_well_formed_and_can_be_read_by_everybody(marks):
    """It closes what it opens, has its language and title, and each cell of a table has its headings."""
    publish(marks, 0, pod="shop/db-0")
    made = InventoryPage(Lookout(context(marks, APool("default", Disk(2))), "1.2.3"), only_local=True)
    answer = await asked(made)
    assert answer.content_type == "text/html; charset=utf-8"
    read = Structure(answer.body.decode())
    assert read.all("html") == [{"lang": "en"}]
    assert [len(read.all(tag)) for tag in ("title", "h1", "main", "table")] == [1, 1, 1, 2]
    assert {heading["scope"] for heading in read.all("th")} == {"col", "row"}
    labels = {region["aria-labelledby"] for region in read.all("div")}
    assert labels == {heading["id"] for heading in read.all("h2")}
    for words in ("node-1", "local.katacsi.io", "1.2.3", "7Gi", "shop/db-0", "pvc-0000", "/dev/loop7",
                  "direct", "grows to 128Mi", "1 in pods", "healthy"):  # fmt: skip
        assert words in read.text, words
    assert not [name for name in ("script", "img", "link", "iframe") if read.all(name)]
    assert "src=" not in answer.body.decode()


async def test_names_of_users_stay_names(marks):
    """A name with markup and with signs that cannot be seen is text, in the page and in its JSON."""
    publish(marks, 0, pod=f"{NASTY}/pod", path=f"/pods/{NASTY}")
    publish(marks, 9, pod=NASTY)
    pools = (APool("default", Disk(names=[NASTY])), APool("other", error=PoolUnavailable(NASTY)))
    made = InventoryPage(Lookout(context(marks, *pools), NASTY), only_local=True)
    body = (await asked(made)).body.decode()
    read = Structure(body)
    assert not read.all("script")
    assert body.count("&lt;script&gt;") >= 6
    assert "\u202e" not in body
    assert "\\u202e\\n" in body
    assert (await data(made))["volumes"][0]["name"] == NASTY


async def test_the_json_says_what_there_is(marks):
    """Pools with their room or their problem; volumes with their pods, by name or UID."""
    publish(marks, 0, pod="shop/db-0")
    publish(marks, 1)
    pools = (APool("default", Disk(3)), APool("away", error=PoolUnavailable("pool 'away': its disk is gone")))
    found = await data(InventoryPage(Lookout(context(marks, *pools), "1.2.3"), only_local=True))
    away, default = found["pools"]
    assert (away["name"], away["usable"], away["problem"]) == ("away", False, "pool 'away': its disk is gone")
    assert (default["usable"], default["available_bytes"], default["problem"]) == (True, 7 << 30, None)
    assert found["complete"] is False, "a pool that cannot be read may have more"
    first, second, third = found["volumes"]
    (place,) = first["published"]
    assert (place["pod"], place["pod_uid"], place["persistent_volume"]) == ("shop/db-0", "uid-0", "pv-0")
    assert (second["published"][0]["pod"], second["published"][0]["pod_uid"]) == (None, "uid-1")
    assert (first["devices"], first["pending_size_bytes"]) == (["/dev/loop7"], 128 << 20)
    assert third["published"] == []
    assert "s3cret" not in json.dumps(found), "what a volume is attached with may be a secret"


async def test_what_is_in_use_without_its_pool_is_shown(marks):
    """A pod has a volume whose pool is away: it stands in a table of its own, and in the JSON."""
    publish(marks, 5)
    made = InventoryPage(
        Lookout(context(marks, APool("default", error=PoolUnavailable("x"))), "1"), only_local=True
    )
    assert "In use, and in no pool" in (await asked(made)).body.decode()
    assert {mark["volume_id"] for mark in (await data(made))["unseen"]} == {"v1:default:0a1b2c3d:pvc-5"}


async def test_a_list_without_end_is_cut_and_says_so(marks, monkeypatch):
    """Only as many volumes are read as are shown; later ones are not said to be missing."""
    monkeypatch.setattr(looking, "MOST_VOLUMES", 5)
    disk = Disk(9)
    publish(marks, 8)
    made = InventoryPage(
        Lookout(context(marks, APool("default", disk), APool("more", Disk(9))), "1"), only_local=True
    )
    found = await data(made)
    assert (len(found["volumes"]), found["complete"], found["unseen"]) == (5, False, [])
    assert [pool["complete"] for pool in found["pools"]] == [False, False]
    assert sum(disk.pages) == 5
    assert "There are more: the page ends after" in (await asked(made)).body.decode()


async def test_a_pool_that_hangs_holds_up_nobody_and_is_asked_once(marks):
    """The page comes in time with the other pool; later pages wait for the same look."""
    hanging = Disk(1)
    hanging.hangs.clear()
    lookout = Lookout(context(marks, APool("hangs", hanging), APool("well", Disk(2))), "1", patience_s=0.05)
    before = len(asyncio.all_tasks())
    for _ in range(4):
        inventory = await lookout.take()
    assert [len(pool.volumes) for pool in inventory.pools] == [0, 2]
    assert "pool 'hangs': has not answered for 0.05 s" in inventory.pools[0].problem
    assert len(asyncio.all_tasks()) == before + 1
    hanging.hangs.set()
    assert [len(pool.volumes) for pool in (await lookout.take()).pools] == [1, 2]
    assert hanging.pages, "the look that hung was the one that ended"
    hanging.hangs.clear()
    await lookout.take()
    await lookout.close()
    assert len(asyncio.all_tasks()) == before


async def test_a_backend_that_breaks_its_contract_hides_no_other(marks):
    """Whatever another package's backend raises, its pool is named and the others are shown."""
    pools = (APool("broken", error=RuntimeError("secret detail")), APool("well", Disk(1)))
    inventory = await Lookout(context(marks, *pools), "1").take()
    assert inventory.pools[0].problem == "pool 'broken': RuntimeError; see the driver's log"
    assert len(inventory.pools[1].volumes) == 1


@pytest.mark.parametrize(
    ("query", "accept", "form"),
    [
        ("", "", "html"),
        ("", "*/*", "html"),
        ("", "text/html,application/xhtml+xml,application/json;q=0.1", "html"),
        ("", "application/json", "json"),
        ("format=json", "text/html", "json"),
        ("format=html", "application/json", "html"),
    ],
)
async def test_who_asks_chooses_the_form(marks, query, accept, form):
    """The query decides, else the Accept header; without either it is the page."""
    made = InventoryPage(Lookout(context(marks), "1"), only_local=True)
    assert form in (await asked(made, query, accept=accept)).content_type


async def test_an_unknown_form_is_a_bad_request(marks):
    """`?format=xml` is refused with what there is."""
    answer = await asked(InventoryPage(Lookout(context(marks), "1"), only_local=True), "format=xml")
    assert (answer.status, answer.body) == (400, b"format: is `html` or `json`\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9808", 200), ("[::1]:9808", 200), ("localhost:9808", 200), ("localhost", 200), ("", 200),
        ("attacker.example:9808", 421), ("localhost.attacker.example", 421), ("[attacker]", 421),
    ],
)  # fmt: skip
async def test_a_web_page_elsewhere_cannot_read_it_by_a_name_of_its_own(marks, host, status):
    """A request by a DNS name is refused on loopback: any web page can have its name lead there."""
    lookout = Lookout(context(marks), "1")
    assert (await asked(InventoryPage(lookout, only_local=True), host=host)).status == status
    assert (await asked(InventoryPage(lookout, only_local=False), host=host)).status == 200


async def test_nothing_of_it_is_kept_or_run(marks):
    """The answer's headers forbid caches to keep it and browsers to run or load anything."""
    server = HttpServer({"/volumes": InventoryPage(Lookout(context(marks), "1"), only_local=True)})
    await server.start("127.0.0.1", 0)
    try:
        head = (await get(server.port)).partition(b"\r\n\r\n")[0].decode()
    finally:
        await server.close()
    assert "Cache-Control: no-store" in head
    assert "Content-Security-Policy: default-src 'none';" in head
    assert "X-Content-Type-Options: nosniff" in head


async def get(port: int, query: str = "") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /volumes{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer


def seconds_of(make, inventory) -> float:
    started = time.perf_counter()
    make(inventory)
    return time.perf_counter() - started


@pytest.mark.parametrize("query", ["", "?format=json"])
async def test_a_thousand_volumes_do_not_stop_the_event_loop(marks, query):
    """While the page is made, the loop turns: it never waits for as long as the making of the page takes."""
    for number in range(1000):
        publish(marks, number, pod=f"shop/db-{number}")
    lookout = Lookout(context(marks, APool("default", Disk(1000))), "1")
    inventory = await lookout.take()
    make = answering.as_json if query else page.render
    body = make(inventory)
    making = min(seconds_of(make, inventory) for _ in range(5))
    made = InventoryPage(SimpleNamespace(take=lambda: asyncio.sleep(0, inventory)), only_local=True)

    async def longest_wait() -> float:
        asking = asyncio.create_task(made(Request(query.removeprefix("?"), {})))
        longest = 0.0
        while not asking.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
        assert (await asking).body == body
        return longest

    # The machine may be busy: the best of some.
    assert min([await longest_wait() for _ in range(5)]) < making * 0.7


@pytest.mark.parametrize(
    ("path", "pod", "pv"),
    [
        ("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/pv-1/mount", "u-1", "pv-1"),
        ("/data/kubelet/pods/u-1/volumes/kubernetes.io~csi/pv-1/mount/", "u-1", "pv-1"),
        ("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv-1/u-1", "u-1", "pv-1"),
        ("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/pv-1", "", ""),
        ("/pods/u-1/volumes/kubernetes.io~csi/pv-1/mount/deeper", "", ""),
        ("/srv/target", "", ""),
    ],
)
def test_the_kubelet_s_paths_name_the_pod(path, pod, pv):
    """Both forms of target paths are read, below any folder; any other path says nothing."""
    assert kubeletpaths.read(path) == kubeletpaths.Claimed(pod, pv)


def test_an_abnormal_volume_is_marked_in_words():
    """Who sees no colours still reads that it is abnormal."""
    sick = volume(condition=Condition(abnormal=True, message="its disk <gone>"))
    view = looking.PoolView("p", "lvm", "local", (looking.collecting.View(sick, [], []),))
    body = page.render(looking.Inventory("d", "1", "n", 0.0, (view,))).decode()
    assert '<td class="bad">abnormal: its disk &lt;gone&gt;</td>' in body
