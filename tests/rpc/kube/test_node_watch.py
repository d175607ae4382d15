"""The watch for gone nodes against a real HTTPS server: what it asks, writes, and never does."""

from __future__ import annotations

import asyncio

import pytest

from katacsi import errors
from katacsi.kube import paths
from katacsi.kube.volumes import FINALIZER
from katacsi.metrics import NodeWatchMetrics
from katacsi.nodewatch.decision import Rules
from katacsi.nodewatch.watcher import NodeWatcher
from support import stranded
from support.stranded import DRIVER, KEY, PROTECTION

PV = paths.persistent_volume("pv-1")
NODE = paths.node("node-1")
CAPACITIES = paths.storage_capacities("katacsi")
WRITES = ("POST", "PATCH", "DELETE")


class Watch:
    """A watcher, the server's objects, and a clock that the test turns."""

    def __init__(self, server, api, *, release: bool) -> None:
        self.server = server
        self.now = 1000.0
        self.told: list[str] = []
        self.metrics = NodeWatchMetrics.create()
        self.watcher = NodeWatcher(
            api,
            Rules(DRIVER, KEY, grace_s=600, release=release),
            interval_s=60,
            namespace="katacsi",
            tell=lambda about, action, reason, note: self.told.append(str(about)),
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    async def looks(self, count: int = 1) -> None:
        """Look so often, a minute apart."""
        for _ in range(count):
            await self.watcher.look()
            self.now += 60

    def writes(self) -> list[str]:
        return [request for request in self.server.requests if request.startswith(WRITES)]

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"katacsi_{name}", labels) or 0.0


@pytest.fixture
def cluster(server):
    """A server with a node that has a volume, which its owner gave up, and another node."""
    server.lists |= {paths.persistent_volumes(), paths.nodes(), CAPACITIES}
    server.objects |= {paths.node(name): stranded.node(name) for name in ("node-1", "node-2")}
    server.objects[PV] = stranded.volume()
    return server


@pytest.fixture
def watch(cluster, api) -> Watch:
    return Watch(cluster, api, release=True)


@pytest.fixture
def only_tells(cluster, api) -> Watch:
    return Watch(cluster, api, release=False)


async def test_a_node_that_is_there_costs_two_lists_and_no_word(cluster, only_tells):
    """The price of a look is one request for 500 volumes, and one for 500 nodes without their status."""
    await only_tells.looks(20)
    assert cluster.requests == [f"GET {paths.persistent_volumes()}", f"GET {paths.nodes()}"] * 20
    assert {query["limit"] for query in cluster.queries} == {"500"}
    assert only_tells.told == []


async def test_a_gone_node_is_told_after_the_grace_period_and_nothing_else(cluster, only_tells):
    """Without the operator's word there is an Event, and no write, however long the node is gone."""
    del cluster.objects[NODE]
    cluster.objects[paths.persistent_volume("pv-2")] = stranded.volume("pv-2", phase="Bound")
    await only_tells.looks(10)
    assert only_tells.told == []
    await only_tells.looks(50)
    assert only_tells.told == ["PV pv-1", "PV pv-2", "PVC default/claim-of-pv-2"]
    assert only_tells.writes() == []
    assert only_tells.counted("nodes_gone") == 1
    assert only_tells.counted("volumes_of_gone_nodes", phase="Bound") == 1
    assert only_tells.counted("volumes_of_gone_nodes", phase="Released") == 1


async def test_what_nobody_can_delete_is_released_where_it_is_wanted(cluster, watch):
    """The object goes, guarded by UID and version at each write, and the capacity objects of that node."""
    del cluster.objects[NODE]
    cluster.objects[f"{CAPACITIES}/of-1"] = stranded.capacity("of-1", "node-1", "katacsi")
    cluster.objects[f"{CAPACITIES}/of-2"] = stranded.capacity("of-2", "node-2", "katacsi")
    cluster.objects[PV]["metadata"]["finalizers"].remove(PROTECTION)
    await watch.looks(10)
    assert watch.writes() == []
    await watch.looks()
    assert watch.writes() == [f"DELETE {PV}", f"PATCH {PV}", f"DELETE {CAPACITIES}/of-1"]
    assert cluster.bodies[0]["metadata"] == {"uid": "uid-of-pv-1", "resourceVersion": "8", "finalizers": []}
    assert PV not in cluster.objects
    assert f"{CAPACITIES}/of-2" in cluster.objects
    assert watch.told == []
    assert watch.counted("released_objects_total", kind="PersistentVolume") == 1
    assert watch.counted("released_objects_total", kind="CSIStorageCapacity") == 1


async def test_other_finalizers_stay(cluster, watch):
    """Whoever else has to agree to the end of a volume still has to."""
    del cluster.objects[NODE]
    cluster.objects[PV]["metadata"]["finalizers"] = ["example.org/mine", FINALIZER]
    await watch.looks(11)
    assert cluster.objects[PV]["metadata"]["finalizers"] == ["example.org/mine"]


async def test_a_deletion_that_was_cut_off_is_finished(cluster, watch):
    """A watcher that was killed between its two writes leaves a volume that the next one lets go."""
    del cluster.objects[NODE]
    cluster.objects[PV]["metadata"] |= {"deletionTimestamp": "then", "finalizers": [FINALIZER]}
    await watch.looks(11)
    assert watch.writes() == [f"PATCH {PV}"]
    assert PV not in cluster.objects


@pytest.mark.parametrize("release", [True, False])
async def test_a_node_with_another_name_than_its_id_is_there(cluster, api, release):
    """The driver's name of a node with a long name is a label of that Node; its volumes are left alone."""
    watch = Watch(cluster, api, release=release)
    del cluster.objects[NODE]
    cluster.objects[paths.node("long")] = stranded.node("long", **{KEY: "node-1"})
    await watch.looks(30)
    assert (watch.writes(), watch.told) == ([], [])
    assert f"GET {NODE}" not in cluster.requests, "the list said enough"


async def test_the_proof_of_absence_counts_the_label_as_well(cluster, watch):
    """A node that registers under another name between the list and the proof is there."""
    del cluster.objects[NODE]
    await watch.looks(10)

    def registers(request):
        if request == f"GET {NODE}":
            cluster.objects[paths.node("long")] = stranded.node("long", **{KEY: "node-1"})
        return 0

    cluster.meanwhile = registers
    await watch.looks()
    assert (watch.writes(), watch.told) == ([], [])


async def test_a_node_that_the_proof_finds_begins_anew(cluster, watch):
    """A node that is back only for the moment of the proof has another grace period before it."""
    gone = cluster.objects.pop(NODE)
    await watch.looks(10)

    def there_for_a_moment(request):
        if request == f"GET {NODE}":
            cluster.objects[NODE] = gone
        return 0

    cluster.meanwhile = there_for_a_moment
    await watch.looks()
    del cluster.objects[NODE]
    cluster.meanwhile = lambda request: 0
    await watch.looks(10)
    assert (watch.writes(), watch.told) == ([], [])
    await watch.looks()
    assert f"DELETE {PV}" in watch.writes()


async def test_a_node_that_comes_back_within_the_grace_period_keeps_all(cluster, watch):
    """A reboot in which a cloud deletes the Node and makes it anew costs nothing; the count begins anew."""
    gone = cluster.objects.pop(NODE)
    await watch.looks(10)
    cluster.objects[NODE] = gone
    await watch.looks()
    del cluster.objects[NODE]
    await watch.looks(10)
    assert (watch.writes(), watch.told) == ([], [])


async def test_a_node_that_comes_back_at_the_last_moment_keeps_all(cluster, watch):
    """Just before a write the node is asked for again, by its name and by its label."""
    gone = cluster.objects.pop(NODE)
    await watch.looks(10)

    def back_before_the_volume_is_read_again(request):
        if request == f"GET {PV}":
            cluster.objects[NODE] = gone
        return 0

    cluster.meanwhile = back_before_the_volume_is_read_again
    await watch.looks(1)
    assert watch.writes() == []


@pytest.mark.parametrize("status", [401, 403, 410, 429, 500, 503])
async def test_an_error_is_never_an_absent_node(cluster, watch, status):
    """A node that cannot be asked for by name may be there, whatever a list said before."""
    del cluster.objects[NODE]
    await watch.looks(10)
    cluster.meanwhile = lambda request: status if request == f"GET {NODE}" else 0
    with pytest.raises(errors.KatacsiError):
        await watch.looks()
    assert (watch.writes(), watch.told) == ([], [])


async def test_a_404_by_something_else_than_kubernetes_is_no_absent_node(cluster, watch, monkeypatch):
    """A proxy that has lost its way says 404, too."""
    del cluster.objects[NODE]
    await watch.looks(10)
    monkeypatch.setattr("support.kube_api._REASONS", {404: "Whatever"})
    with pytest.raises(errors.Precondition):
        await watch.looks()
    assert (watch.writes(), watch.told) == ([], [])


async def test_time_without_an_api_server_is_no_absence(cluster, watch):
    """Nothing is concluded from a day in which nobody could look, not even just after it."""
    del cluster.objects[NODE]
    await watch.looks(5)
    cluster.failing = 503
    with pytest.raises(errors.Unavailable):
        await watch.looks()
    watch.now += 86400
    cluster.failing = 0
    await watch.looks(6)
    assert watch.writes() == []
    await watch.looks()
    assert f"DELETE {PV}" in watch.writes()


async def test_a_cluster_without_any_node_is_not_believed(cluster, watch):
    """A server that was set up anew, or restored in part, has lost its nodes; they have not gone."""
    nodes = [cluster.objects.pop(paths.node(name)) for name in ("node-1", "node-2")]
    for _ in range(30):
        with pytest.raises(errors.Unavailable, match="list of Nodes is empty"):
            await watch.looks()
        watch.now += 60
    cluster.objects[paths.node("node-2")] = nodes[1]
    await watch.looks(10)
    assert (watch.writes(), watch.told) == ([], [])


@pytest.mark.parametrize("list_of", [paths.persistent_volumes(), paths.nodes()])
async def test_half_a_look_is_none(cluster, watch, list_of):
    """Where one of the two lists cannot be had, no node is taken for absent or for back."""
    del cluster.objects[NODE]
    await watch.looks(3)
    cluster.meanwhile = lambda request: 500 if request == f"GET {list_of}" else 0
    with pytest.raises(errors.Unavailable):
        await watch.looks()
    assert watch.watcher._absences.of("node-1") == 120


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"status": {"phase": "Bound"}}, id="a claim has it again"),
        pytest.param({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}, id="it is to be retained"),
        pytest.param({"metadata": {"uid": "another"}}, id="another volume has its name"),
        pytest.param({"spec": {"nodeAffinity": stranded.affinity("node-2")}}, id="it is elsewhere"),
    ],
)
async def test_what_changed_since_the_list_is_not_touched(cluster, watch, change):
    """A volume is read again before it is deleted, and judged by what it is then."""
    del cluster.objects[NODE]
    await watch.looks(10)

    def changed(request):
        if request == f"GET {paths.nodes()}":
            for part, values in change.items():
                cluster.objects[PV][part] |= values
        return 0

    cluster.meanwhile = changed
    await watch.looks()
    assert watch.writes() == []


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
async def test_what_changes_at_the_very_moment_is_not_deleted(cluster, watch, field):
    """The server itself refuses the deletion of another object, or of another version, than was judged."""
    del cluster.objects[NODE]
    await watch.looks(10)

    def changed(request):
        if request == f"DELETE {PV}":
            cluster.objects[PV]["metadata"][field] = "99"
        return 0

    cluster.meanwhile = changed
    await watch.looks()
    assert "deletionTimestamp" not in cluster.objects[PV]["metadata"]
    assert FINALIZER in cluster.objects[PV]["metadata"]["finalizers"]
    assert watch.counted("released_objects_total", kind="PersistentVolume") == 0


async def test_a_controller_that_writes_in_between_costs_one_more_try(cluster, watch):
    """Kubernetes takes its own finalizer off a volume that is being deleted: the patch is made anew."""
    del cluster.objects[NODE]
    await watch.looks(10)
    patches = []

    def unprotected(request):
        if request == f"PATCH {PV}" and not patches:
            metadata = cluster.objects[PV]["metadata"]
            metadata |= {"finalizers": [FINALIZER], "resourceVersion": "50"}
            patches.append(request)
        return 0

    cluster.meanwhile = unprotected
    await watch.looks()
    assert watch.writes() == [f"DELETE {PV}", f"PATCH {PV}", f"PATCH {PV}"]
    assert PV not in cluster.objects


async def test_two_watchers_at_once_do_no_harm(cluster, watch, api):
    """Both come to the same end, whoever is first at each write."""
    del cluster.objects[NODE]
    for number in range(2, 6):
        cluster.objects[paths.persistent_volume(f"pv-{number}")] = stranded.volume(f"pv-{number}")
    cluster.objects[f"{CAPACITIES}/of-1"] = stranded.capacity("of-1", "node-1", "katacsi")
    second = Watch(cluster, api, release=True)
    for _ in range(12):
        await asyncio.gather(watch.looks(), second.looks())
    left = [each for path, each in cluster.objects.items() if path.startswith(paths.persistent_volumes())]
    assert [each["metadata"]["finalizers"] for each in left] == [[PROTECTION]] * 5
    assert f"{CAPACITIES}/of-1" not in cluster.objects


async def test_a_missing_right_stops_a_release_and_no_event(cluster, watch):
    """Without the rule for PersistentVolumes the look fails and says so; people are told all the same."""
    del cluster.objects[NODE]
    cluster.objects[paths.persistent_volume("pv-2")] = stranded.volume("pv-2", phase="Bound")
    await watch.looks(10)
    cluster.meanwhile = lambda request: 403 if request == f"DELETE {PV}" else 0
    with pytest.raises(errors.NotPermitted):
        await watch.looks()
    assert watch.told == ["PV pv-2", "PVC default/claim-of-pv-2"]


async def test_only_volumes_of_this_driver_are_seen(cluster, watch):
    """Another driver's volumes on a node that is gone, and volumes of all nodes, are not our matter."""
    del cluster.objects[NODE]
    cluster.objects[PV] = stranded.volume(driver="other.io", provisioner="other.io")
    cluster.objects[paths.persistent_volume("pv-2")] = stranded.volume("pv-2", nodeAffinity=None)
    await watch.looks(30)
    assert (watch.writes(), watch.told, watch.counted("nodes_gone")) == ([], [], 0)
