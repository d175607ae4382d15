"""What is said of the records, the node and the pools: from the picture to the verdict."""

from __future__ import annotations

import pytest

from katacsi.directvolume.entries import Entry
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.doctor import examine
from katacsi.doctor.driver import CAP_SYS_ADMIN, CAP_SYS_RESOURCE, TOOLS
from katacsi.doctor.kata import Kata
from katacsi.doctor.kataconfig import parsed
from katacsi.doctor.kernel import Kernel
from katacsi.doctor.kubelet import Kubelet
from katacsi.doctor.node import Node
from katacsi.doctor.pools import PoolFacts
from katacsi.doctor.records import Recorded, Records
from katacsi.findings import Mounted, Place, Unread, Verdict
from katacsi.settings import Settings
from support import kata_trees as trees

OK, NOTE, WARNING, FAILURE, UNKNOWN = Verdict
ROOT = "/run/kata-containers/shared/direct-volumes"
TMPFS = Mounted("/run", "tmpfs", shared=True)
TARGET = "/var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/pvc-1/mount"
RECORD = DirectVolumeRecord("/dev/loop7", "ext4")
DENIED = Unread("denied")


def verdicts(check_id, node):
    """What a check says of a node, in order."""
    check = next(check for check in examine.CHECKS if check.id == check_id)
    results = list(check.judge(node))
    assert all(result.remedy for result in results if result.verdict in {FAILURE, WARNING})
    return [result.verdict for result in results]


def place(path=ROOT, **facts):
    return Place(path, mounted=facts.pop("mounted", TMPFS), **facts)


@pytest.mark.parametrize(
    ("check_id", "found", "contained", "expected"),
    [
        ("records-root", place(), False, OK),
        ("records-root", place(exists=False), False, OK),
        ("records-root", place(exists=False), True, FAILURE),
        ("records-root", place(folder=False), False, FAILURE),
        ("records-root", place(hosts=False), True, FAILURE),
        ("records-root", place(hosts=True), True, OK),
        ("records-root", DENIED, False, UNKNOWN),
        ("records-memory", place(), False, OK),
        ("records-memory", place(mounted=Mounted("/", "ext4")), False, FAILURE),
        ("records-memory", place(mounted=None), False, UNKNOWN),
        ("records-mode", place(mode=0o700), False, OK),
        ("records-mode", place(mode=0o755), False, WARNING),
        ("records-mode", place(mode=0o770), False, FAILURE),
        ("records-mode", place(mode=0o700, owner=1000), False, FAILURE),
    ],
)
def test_root_of_the_records(check_id, found, contained, expected):
    """Where it is, on what, and whose."""
    node = Node(contained=contained, records=Records(found))
    assert verdicts(check_id, node) == [expected]


def test_a_root_that_a_container_has_not_lies_on_no_filesystem():
    """`records-root` has said what there is to say."""
    node = Node(contained=True, records=Records(place(exists=False, mounted=Mounted("/", "overlay"))))
    assert verdicts("records-memory", node) == []


def recorded(record, *, ours, target_there=True):
    problem = "" if record else "torn"
    return Recorded(Entry(TARGET, "name", record, problem), ours, target_there)


IDS = ("a" * 64, "0f" * 32)
TEMPORARY = ("mountInfo.json.tmp",)


def led(ours, *, device_there=True, target_there=True, beside=()):
    """A readable record, and what is where it leads to."""
    entry = Entry(TARGET, "name", RECORD, sandbox_ids=tuple(beside))
    return (Recorded(entry, ours, target_there, device_there),)


@pytest.mark.parametrize(
    ("check_id", "entries", "expected"),
    [
        ("records-device", led(ours=True), []),
        ("records-device", led(ours=True, device_there=False), [FAILURE]),
        ("records-device", led(ours=False, device_there=False), [NOTE]),
        ("records-device", led(ours=None, device_there=False), [NOTE]),
        ("records-device", led(ours=True, device_there=None), [UNKNOWN]),
        # Nobody starts a container for a path that is gone.
        ("records-device", led(ours=True, device_there=False, target_there=False), []),
        ("records-leftovers", led(ours=True, beside=IDS), []),
        ("records-leftovers", led(ours=True, beside=TEMPORARY), [WARNING]),
        ("records-leftovers", led(ours=False, beside=TEMPORARY), [NOTE]),
    ],
)
def test_what_records_lead_to(check_id, entries, expected):
    """A device that is gone breaks a pod of ours; of others' records everything is only noted."""
    assert verdicts(check_id, Node(records=Records(place(), entries))) == expected


@pytest.mark.parametrize(
    ("check_id", "entries", "expected"),
    [
        ("records-readable", (), [OK]),
        ("records-readable", (recorded(RECORD, ours=True),), [OK]),
        ("records-readable", (recorded(None, ours=True),), [FAILURE]),
        # What is not ours is none of our business, and may be used in ways that we do not know.
        ("records-readable", (recorded(None, ours=False),), [NOTE]),
        ("records-readable", (recorded(None, ours=None),), [NOTE]),
        ("records-readable", DENIED, [UNKNOWN]),
        ("records-stale", (recorded(RECORD, ours=True),), []),
        ("records-stale", (recorded(RECORD, ours=True, target_there=False),), [WARNING]),
        ("records-stale", (recorded(RECORD, ours=False, target_there=False),), [NOTE]),
        ("records-stale", (recorded(RECORD, ours=False, target_there=None),), [UNKNOWN]),
    ],
)
def test_records(check_id, entries, expected):
    """Our own are judged, others' are noted."""
    assert verdicts(check_id, Node(records=Records(place(), entries))) == expected


REGISTRY = "/var/lib/kubelet/plugins_registry"


@pytest.mark.parametrize(
    ("socket", "found", "contained", "expected"),
    [
        (None, place(REGISTRY), False, []),
        (f"{REGISTRY}/l-reg.sock", place(REGISTRY), False, [OK]),
        (f"{REGISTRY}/l-reg.sock", place(REGISTRY, hosts=True), True, [OK]),
        (f"{REGISTRY}/l-reg.sock", place(REGISTRY, hosts=False), True, [FAILURE]),
        (f"{REGISTRY}/l-reg.sock", place(REGISTRY, exists=False), True, [FAILURE]),
        (f"{REGISTRY}/l-reg.sock", place(REGISTRY, exists=False), False, [NOTE]),
        (f"{REGISTRY}/l-reg.sock", DENIED, False, [UNKNOWN]),
        ("/var/lib/kubelet/plugins/l/reg.sock", place(REGISTRY), False, [FAILURE]),
        (f"{REGISTRY}/below/l-reg.sock", place(REGISTRY), False, [FAILURE]),
    ],
)
def test_where_the_driver_registers_itself(socket, found, contained, expected):
    """The kubelet looks into one folder, and into the node's, not into a container's."""
    settings = Settings.model_validate({"kubelet": {"registration_socket": socket}})
    node = Node(contained=contained, kubelet=Kubelet(registry=found), settings=settings)
    assert verdicts("node-registration", node) == expected


def kubelet(**facts):
    return place("/var/lib/kubelet", **facts)


SHARED, PRIVATE = Mounted("/", "ext4", shared=True), Mounted("/", "ext4")


@pytest.mark.parametrize(
    ("found", "contained", "expected"),
    [
        (kubelet(mounted=SHARED), False, OK),
        (kubelet(mounted=PRIVATE), False, NOTE),
        (kubelet(exists=False), False, NOTE),
        (kubelet(mounted=SHARED, hosts=True), True, OK),
        (kubelet(mounted=PRIVATE, hosts=True), True, FAILURE),
        (kubelet(mounted=SHARED, hosts=False), True, FAILURE),
        (kubelet(exists=False), True, FAILURE),
        (kubelet(mounted=None), False, UNKNOWN),
        (DENIED, False, UNKNOWN),
    ],
)
def test_propagation(found, contained, expected):
    """In a container mounts have to reach the node."""
    node = Node(contained=contained, kubelet=Kubelet(place=found))
    assert verdicts("node-propagation", node) == [expected]


@pytest.mark.parametrize(
    ("root", "longest", "expected"),
    [("/var/lib/kubelet", 98, OK), ("/" + "k" * 73, 40, OK), ("/" + "k" * 74, 39, FAILURE)],
)
def test_length_of_targets(root, longest, expected):
    """189 bytes for all of the path; a dynamic PersistentVolume's name has 40."""
    node = Node(kubelet=Kubelet(root))
    assert verdicts("node-target-length", node) == [expected]
    assert len(f"{root}/pods/{'u' * 36}/volumes/kubernetes.io~csi/{'v' * longest}/mount") == 189


ALL_TOOLS = frozenset(name for names in TOOLS.values() for name in names)


@pytest.mark.parametrize(
    ("missing", "default", "expected"),
    [
        (set(), "ext4", [OK, OK, OK, OK]),
        ({"blkid"}, "ext4", [FAILURE, OK, OK, OK]),
        ({"e2fsck"}, "ext4", [OK, FAILURE, OK, OK]),
        ({"e2fsck"}, "xfs", [OK, WARNING, OK, OK]),
        ({"mkfs.xfs"}, "xfs", [OK, OK, FAILURE, OK]),
        ({"mkfs.btrfs"}, "ext4", [OK, OK, OK, WARNING]),
    ],
)
def test_tools(missing, default, expected):
    """Those of the default filesystem have to be there."""
    node = Node(tools=ALL_TOOLS - missing, settings=Settings(default_filesystem=default))
    assert verdicts("node-tools", node) == expected


@pytest.mark.parametrize(
    ("filesystems", "modules", "expected"),
    [
        (frozenset({"ext4", "xfs"}), DENIED, [OK, OK]),
        (frozenset({"ext4"}), frozenset({"xfs"}), [OK, OK]),
        (frozenset({"ext4"}), frozenset(), [OK, WARNING]),
        (frozenset({"ext4"}), DENIED, [OK, UNKNOWN]),
        (DENIED, frozenset(), [UNKNOWN]),
    ],
)
def test_filesystems(filesystems, modules, expected):
    """Known, loadable, missing."""
    node = Node(kernel=Kernel(filesystems=filesystems, modules=modules))
    assert verdicts("node-filesystems", node) == expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (1 << CAP_SYS_ADMIN | 1 << CAP_SYS_RESOURCE, OK),
        (1 << CAP_SYS_ADMIN, WARNING),
        (1 << CAP_SYS_RESOURCE, FAILURE),
        (DENIED, UNKNOWN),
    ],
)
def test_rights(held, expected):
    """Mounting is a must, growing a mounted ext4 is not."""
    assert verdicts("node-rights", Node(capabilities=held)) == [expected]


@pytest.mark.parametrize(("on", "expected"), [(True, NOTE), (False, OK), (DENIED, UNKNOWN)])
def test_selinux(on, expected):
    """It is good to know."""
    assert verdicts("node-selinux", Node(kernel=Kernel(selinux=on))) == [expected]


@pytest.mark.parametrize(
    ("text", "paths", "expected"),
    [
        (trees.GO_QEMU, {"/run/x": (False, True)}, []),
        (trees.RUST_QEMU, {"/run/x": (False, True)}, [WARNING]),
        (trees.RUST_QEMU, {"/run/x": (True, True), "/run/y": (False, False)}, [OK]),
        (trees.RUST_QEMU, {"/run/x": (False, False)}, [NOTE]),
    ],
)
def test_guest_statistics(text, paths, expected):
    """runtime-rs needs more than its sockets."""
    kata = Kata(configurations=(parsed("/k.toml", text, ()),))
    assert verdicts("node-guest-statistics", Node(kata=kata, guest_paths=paths)) == expected


def pool_facts(**facts):
    return PoolFacts("default", "loopfile", **facts)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (pool_facts(), OK),
        (pool_facts(problem="gone"), FAILURE),
        (pool_facts(problem=DENIED), UNKNOWN),
        (pool_facts(unready=True), NOTE),
    ],
)
def test_pools_open(pool, expected):
    """As their backend says."""
    assert verdicts("pool-usable", Node(settings=Settings(), pools=(pool,))) == [expected]


@pytest.mark.parametrize(("available", "expected"), [(1 << 30, [OK]), ((1 << 30) - 1, [WARNING]), (None, [])])
def test_room(available, expected):
    """For one volume at least."""
    node = Node(settings=Settings(), pools=(pool_facts(available_bytes=available),))
    assert verdicts("pool-room", node) == expected
