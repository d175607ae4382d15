"""The inventory page of a real driver, beside the command line, while a pod has a volume."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from katacsi.csi.client import Client
from katacsi.testing import leaks
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from pathlib import Path

#: What the kubelet tells of the pod at NodePublish, as CSIDriver's `podInfoOnMount` has it.
POD = {"csi.storage.k8s.io/pod.name": "db-0", "csi.storage.k8s.io/pod.namespace": "shop"}


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def port_of(driver: ServeProcess) -> int:
    lines = [json.loads(line) for line in driver.log.read_text().splitlines() if line.startswith("{")]
    return next(line["port"] for line in lines if line["event"] == "metrics")


def listed(driver: ServeProcess) -> list[dict]:
    words = ["volumes", "list", "--config", driver.config, "--output", "json"]
    answer = subprocess.run(
        [sys.executable, "-m", "katacsi", *words], capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout)


def everything(folder: Path) -> dict[str, tuple]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        # The pool's room is told as /metrics tells it, after a file that says whether the pool takes writes.
        if path.name not in {"driver.log", "pool"}
    }


@pytest.fixture
def driver(scratch):
    """A driver whose inventory is on, on a free port of loopback."""
    settings = {"metrics": {"address": "127.0.0.1:0", "inventory": True}, "log": {"format": "json"}}
    with ServeProcess(scratch, settings=settings) as driver:
        yield driver


async def test_the_page_says_what_the_command_says_and_touches_nothing(driver, scratch):
    """The volumes are those of `katacsi volumes list`, with their pods; looking changes no file."""
    pod = scratch / "pods/0b5e7d0a-uid/volumes/kubernetes.io~csi/pv-1"
    async with Client(driver.socket) as client:
        await Volume("idle", client=client, staging=scratch / "s2", target=scratch / "t2").create()
        volume = Volume("data", client=client, staging=scratch / "staging", target=pod / "mount")
        await volume.create()
        await volume.stage()
        volume.context = {**volume.context, **POD}
        await volume.publish()
        port = port_of(driver)
        before = everything(scratch)
        status, body = await asyncio.to_thread(get, port, "/volumes?format=json")
        page_status, page = await asyncio.to_thread(get, port, "/volumes")
        assert everything(scratch) == before
        assert len(leaks.leaks_below(scratch).loops) == 1, "the volume that nobody staged has no device"
        found = json.loads(body)
        assert found["volumes"] == await asyncio.to_thread(listed, driver)
        await volume.unpublish()
        await volume.unstage()
    assert (status, page_status) == (200, 200)
    data, idle = found["volumes"]
    (place,) = data["published"]
    assert (place["pod"], place["pod_uid"], place["persistent_volume"]) == (
        "shop/db-0",
        "0b5e7d0a-uid",
        "pv-1",
    )
    assert (idle["published"], idle["staged"], idle["devices"]) == ([], [], [])
    assert data["devices"] == [place["device"]]
    assert found["pools"][0]["available_bytes"] > 0
    for words in (b"shop/db-0", b"idle", data["devices"][0].encode(), b"1 in pods"):
        assert words in page, words


async def test_a_repeated_publish_with_another_pod_s_name_is_the_same_publish(driver, scratch):
    """The name is only shown: a mark of a driver that kept none, or another name, makes no other publish."""
    async with Client(driver.socket) as client:
        volume = Volume("data", client=client, staging=scratch / "staging", target=scratch / "pod" / "mount")
        await volume.create()
        await volume.stage()
        await volume.publish()
        volume.context = {**volume.context, **POD}
        await volume.publish()
        await volume.unpublish()
        await volume.unstage()


def test_without_the_setting_there_is_no_page(scratch):
    """Off unless configured: `/volumes` is not found, beside the metrics."""
    with ServeProcess(
        scratch, settings={"metrics": {"address": "127.0.0.1:0"}, "log": {"format": "json"}}
    ) as driver:
        port = port_of(driver)
        assert get(port, "/volumes")[0] == 404
        assert get(port, "/metrics")[0] == 200
