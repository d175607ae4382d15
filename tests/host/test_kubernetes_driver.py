"""The driver as a process that asks an API server: how often it asks, what it tells, what it carries."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from katacsi.csi.client import Client, RpcError
from katacsi.kube import paths
from katacsi.testing.kubelet import Volume
from katacsi.volumes import claims
from katacsi.volumes.publish import pods
from support import kube_api
from support.driver import Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
#: Resident memory of an idle node process that uses the API, in MiB: what a node pays for the driver.
MOST_RESIDENT_MIB = 56


@pytest.fixture
async def server(scratch) -> AsyncIterator[kube_api.KubeApi]:
    """An API server with a claim, two pods and their RuntimeClasses."""
    async with kube_api.serving(scratch) as serving:
        serving.objects[paths.claim("default", "data")] = {
            "metadata": {
                "name": "data",
                "namespace": "default",
                "uid": UID,
                "annotations": {"katacsi.io/direct": "true"},
            }
        }
        for name, handler in (("kata", "kata-clh"), ("plain", "runc")):
            serving.objects[paths.pod("default", name)] = {
                "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
                "spec": {"runtimeClassName": name},
            }
            serving.objects[paths.runtime_class(name)] = {"handler": handler}
        yield serving


@pytest.fixture
def settings(server):
    return {"kube": {"enabled": True, "kubeconfig": str(server.write_kubeconfig()), "timeout": 2}}


class Claimed(Volume):
    """A volume for the claim, and the pod that it is published for."""

    pod = "kata"

    def to_publish(self):
        asked = super().to_publish()
        asked.volume_context |= {
            pods.NAME: self.pod,
            pods.NAMESPACE: "default",
            pods.UID: f"uid-{self.pod}",
        }
        return asked


def claimed(scratch: Path, client: Client) -> Claimed:
    return Claimed(
        f"pvc-{UID}",
        staging=scratch / "staging",
        target=scratch / "pod" / "mount",
        client=client,
        parameters={claims.NAME: "data", claims.NAMESPACE: "default"},
    )


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024


def arenas(pid: int) -> int:
    """Count what the C library has reserved for single threads: 64 MiB of addresses each."""
    spans = (
        line.split()[0].split("-")
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if line.split()[1] == "---p"
    )
    return sum(int(end, 16) - int(start, 16) > 32 << 20 for start, end in spans)


async def until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_the_life_of_a_volume_costs_three_requests(scratch, server, settings):
    """One for the claim, two for the pod; repeated calls and all others ask nothing. It stays small."""
    with Driver(scratch, settings) as driver:
        async with Client(driver.socket) as client:
            volume = claimed(scratch, client)
            for _ in range(2):
                await volume.create()
            assert volume.context["katacsi.io/direct"] == "true"
            assert volume.context["katacsi.io/claim"] == "default/data"
            await volume.stage()
            for _ in range(3):
                await volume.publish()
            assert any(driver.records.iterdir())
            await volume.stats()
            await volume.stage()
            await volume.unpublish()
            await volume.unstage()
            await volume.delete()
        resident = resident_mib(driver.pid)
        assert arenas(driver.pid) == 0, "a thread of host steps has one of its own"
    print(f"resident after its first volume: {resident:.1f} MiB")
    assert server.requests == [
        f"GET {paths.claim('default', 'data')}",
        f"GET {paths.pod('default', 'kata')}",
        f"GET {paths.runtime_class('kata')}",
    ]
    assert resident <= MOST_RESIDENT_MIB


async def test_a_refusal_is_an_event_on_the_pod(scratch, server, settings):
    """A pod that would see an empty folder is refused, and whoever describes it reads why."""
    with Driver(scratch, settings) as driver:
        async with Client(driver.socket) as client:
            volume = claimed(scratch, client)
            volume.pod = "plain"
            await volume.create()
            await volume.stage()
            with pytest.raises(RpcError, match="runtimeClassName") as refusal:
                await volume.publish()
            assert refusal.value.code == "FAILED_PRECONDITION"
            await until(lambda: server.bodies)
            await volume.unstage()
            await volume.delete()
    (event,) = server.bodies
    assert (event["reason"], event["regarding"]["name"], event["regarding"]["uid"]) == (
        "NotPossible",
        "plain",
        "uid-plain",
    )
    assert event["note"] == refusal.value.message


async def test_an_api_server_that_hangs_delays_what_needs_it_and_nothing_else(scratch, server, settings):
    """A first publish is UNAVAILABLE after the timeout; teardown goes on at once, and so does the end."""
    with Driver(scratch, settings) as driver:
        async with Client(driver.socket) as client:
            volume = claimed(scratch, client)
            await volume.create()
            await volume.stage()
            server.hanging = True
            with pytest.raises(RpcError, match=r"kube\.timeout") as refusal:
                await volume.publish()
            assert refusal.value.code == "UNAVAILABLE"
            assert not volume.target.exists()
            started = time.monotonic()
            await volume.unpublish()
            await volume.unstage()
            await volume.delete()
        assert driver.stop() == 0
        assert time.monotonic() - started < 2


def test_the_models_of_the_library_are_never_loaded():
    """A process that uses the API imports the library's few modules for connections, and no API class."""
    program = (
        "import sys, asyncio\n"
        "import katacsi.app\n"
        "from katacsi.kube.cluster import KubeCluster\n"
        "from katacsi.kube.library import library, load_kube_config\n"
        "library(), load_kube_config()\n"
        "print([m for m in sys.modules if m.startswith(('kubernetes_asyncio', 'aiohttp.'))])"
    )
    said = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(said.stdout)
    of_api = [m for m in loaded if m.startswith("kubernetes_asyncio")]
    assert len(of_api) <= 12
    assert [m for m in of_api if ".models" in m or ".api" in m or m == "kubernetes_asyncio"] == []
    assert {"aiohttp.tracing", "aiohttp.web", "aiohttp.worker"}.isdisjoint(loaded)
