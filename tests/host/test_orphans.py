"""Volumes without a PersistentVolume: told by the metric, the list and the page, and left alone."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time

import pytest

from katacsi.inventory.looking import Lookout
from katacsi.kube import paths
from katacsi.testing.process import ServeProcess
from katacsi.volumes import orphans, parameters
from support import cluster as clusters
from support import kube_api
from support.cluster import StandIn


@pytest.fixture
def cluster(node, monkeypatch):
    """A cluster that the node's workflows ask, for which no volume is too young."""
    monkeypatch.setattr(orphans, "GRACE_S", -1.0)
    return clusters.put_into(node, StandIn())


def metric(node) -> float | None:
    return node.driver.context.metrics.registry.get_sample_value(
        "katacsi_orphaned_volumes", {"pool": "default"}
    )


async def test_an_orphan_is_counted_and_kept(node, cluster, volume):
    """Without its PersistentVolume it is an orphan, on the page too; with one it is none. Its bytes stay."""
    pvc = volume("pvc-1")
    await pvc.create()
    watch = node.driver.orphans
    assert (watch.known, metric(node)) == (None, None), "nobody has looked: nothing is said"
    await watch.look()
    assert (watch.known, metric(node)) == ({pvc.id}, 1)
    (pool,) = (await Lookout(node.driver.context, "1", orphans=watch).take()).pools
    assert [view.orphaned for view in pool.volumes] == [True]
    cluster.handles.add(pvc.id)
    await watch.look()
    assert (watch.known, metric(node)) == (frozenset(), 0)
    assert node.disk("pvc-1").exists()


async def test_what_is_in_use_or_young_is_not_asked_about(node, cluster, volume, monkeypatch):
    """A pod has the one, and the other's PersistentVolume may still be on its way: no request at all."""
    pvc = volume("used")
    await pvc.create()
    await pvc.stage()
    await node.driver.orphans.look()
    assert cluster.asked == []
    await pvc.unstage()
    monkeypatch.setattr(orphans, "GRACE_S", 60.0)
    await node.driver.orphans.look()
    assert cluster.asked == []
    monkeypatch.setattr(orphans, "GRACE_S", -1.0)
    await node.driver.orphans.look()
    assert cluster.asked == ["without_persistent_volume"]


async def test_volumes_of_another_cluster_are_not_this_one_s_orphans(node, volume, monkeypatch):
    """A disk came with its volumes from another cluster: they are passed over. Retries find their volume."""
    monkeypatch.setattr(orphans, "GRACE_S", -1.0)
    pvc = volume("pvc-1")
    for name in ("blue", "green"):
        await node.restart(kube={"cluster_name": name})
        view = await pvc.create()  # under the new name it is a retry, and no other volume
        assert view.volume.attributes[parameters.CLUSTER] == "blue"
    cluster = clusters.put_into(node, StandIn())
    await node.driver.orphans.look()
    assert (node.driver.orphans.known, cluster.asked) == (frozenset(), [])
    await node.restart(kube={"cluster_name": "blue"})
    clusters.put_into(node, StandIn())
    await node.driver.orphans.look()
    assert node.driver.orphans.known == {pvc.id}


async def test_who_cannot_ask_keeps_what_was_known(node, cluster, volume):
    """While the API server or the pool is away, orphans stay what they were, and no volume becomes one."""
    pvc = volume("pvc-1")
    await pvc.create()
    await node.driver.orphans.look()
    await volume("pvc-2").create()
    cluster.down = True
    await node.driver.orphans.look()
    assert (node.driver.orphans.known, metric(node)) == ({pvc.id}, 1)
    cluster.down = False
    (node.pool / "volumes").rename(node.scratch / "kept")
    await node.driver.orphans.look()
    assert (node.driver.orphans.known, metric(node)) == ({pvc.id}, 1)
    (node.scratch / "kept").rename(node.pool / "volumes")


async def test_the_driver_looks_by_itself_until_it_stops(node, cluster, volume):
    """It looks again and again at the interval; 0 is never; stopping ends it at once."""
    pvc = volume("pvc-1")
    await pvc.create()
    settings = node.driver.context.settings
    quick = settings.model_copy(update={"kube": settings.kube.model_copy(update={"orphan_interval": 0.01})})
    object.__setattr__(node.driver.context, "settings", quick)
    watch = node.driver.orphans
    watch.start()
    end = time.monotonic() + 20
    while cluster.asked.count("without_persistent_volume") < 2:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    await watch.close()
    count = len(cluster.asked)
    await asyncio.sleep(0.1)
    assert len(cluster.asked) == count
    never = settings.model_copy(update={"kube": settings.kube.model_copy(update={"orphan_interval": 0})})
    object.__setattr__(node.driver.context, "settings", never)
    watch.start()
    await asyncio.sleep(0.1)
    assert len(cluster.asked) == count


# -- the command line ----------------------------------------------------------------------------------


def listed(driver: ServeProcess, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "katacsi", "volumes", "list", "--config", str(driver.config), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


async def test_the_list_marks_orphans(scratch):
    """`katacsi volumes list` asks the cluster itself, with the driver down; API away: a note, and no mark."""
    from katacsi.csi.client import Client
    from katacsi.testing.kubelet import Volume

    async with kube_api.serving(scratch) as server:
        kube = {"enabled": True, "kubeconfig": str(server.write_kubeconfig()), "timeout": 2}
        with ServeProcess(scratch, settings={"kube": kube}) as driver:
            async with Client(driver.socket) as client:
                for name in ("kept", "lost", "young"):
                    volume = Volume(name, client=client, staging=scratch / "s", target=scratch / "t")
                    await volume.create()
                    if name == "kept":
                        handle = volume.volume_id
        for name in ("kept", "lost"):
            record = driver.pool / f"volumes/{name}/volume.json"
            # Made years ago; the record keeps its length, as facts follow it.
            old = re.sub(rb'(?<="created_at":)\d{4}', b"1700", record.read_bytes())
            record.write_bytes(old)
        spec = {"csi": {"driver": "local.katacsi.io", "volumeHandle": handle}}
        server.objects[paths.persistent_volume("kept")] = {"spec": spec}
        server.objects[paths.persistent_volumes()] = {"items": [{"spec": spec}]}
        table = await asyncio.to_thread(listed, driver)
        data = json.loads((await asyncio.to_thread(listed, driver, "-o", "json")).stdout)
        server.failing = 503
        away = await asyncio.to_thread(listed, driver, "-o", "json")
    assert {volume["name"]: volume["orphaned"] for volume in data} == {
        "kept": False,
        "lost": True,
        "young": False,
    }
    assert [line.split()[0] for line in table.stdout.splitlines() if "orphan" in line] == ["lost"]
    assert away.returncode == 0
    assert away.stderr.startswith("Note: which volumes are orphans is not known: ")
    assert [volume["orphaned"] for volume in json.loads(away.stdout)] == [None, None, None]
