"""How katacsi is placed on its node: whether its mounts reach the pods, what it may do, what it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.directvolume.names import MAX_TARGET_BYTES
from katacsi.doctor.kataconfig import Flavour
from katacsi.doctor.model import Checks, Harm, Unread, failure, note, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node

HOST: Final = Checks("Node")

#: <linux/capability.h>
CAP_SYS_ADMIN: Final = 21
CAP_SYS_RESOURCE: Final = 24

#: A dynamic PersistentVolume is named `pvc-` and a UUID.
_DYNAMIC_NAME: Final = 4 + 36


@HOST.add(
    "node-propagation",
    "mounts below the kubelet's folder reach the pods",
    Harm.PODS,
    "katacsi mounts volumes and guards below the kubelet's folder. In a container that has no bidirectional "
    "propagation they stay there: the kubelet and Kata see an empty directory.",
)
def propagation(node: Node) -> Iterator[Result]:
    """Look whether what is mounted here is seen by the node."""
    place = node.kubelet.place
    path = node.kubelet.root
    remedy = f"mount the node's {path} at the same path, with mountPropagation: Bidirectional"
    if isinstance(place, Unread):
        yield unknown(path, place.reason, "run doctor as root on the node")
    elif not place.exists and node.contained:
        yield failure(path, "is not there in this container", remedy)
    elif not place.exists:
        yield note(path, "is not there: no kubelet has run here, or it has another --root-dir")
    elif place.hosts is False:
        yield failure(path, "is another folder than the node's", remedy)
    elif place.mounted is None:
        yield unknown(path, "how its mounts propagate is not known")
    elif place.mounted.shared:
        yield ok(path, f"{place.mounted.target} is shared")
    elif node.contained:
        yield failure(path, f"{place.mounted.target} is not shared", remedy)
    else:
        yield note(
            path,
            f"{place.mounted.target} is not shared; a driver in a container cannot have bidirectional "
            "propagation then",
            f"mount --make-rshared {place.mounted.target}",
        )


@HOST.add(
    "node-target-length",
    "how long a PersistentVolume's name may be",
    Harm.PODS,
    "Kata finds no record of a path of more than 189 bytes; katacsi refuses to publish one.",
)
def target_length(node: Node) -> Iterator[Result]:
    """Work out the longest name from the kubelet's folder."""
    kubelet = node.kubelet
    around = f"{kubelet.root}/pods/{'u' * 36}/volumes/kubernetes.io~csi//mount"
    longest = MAX_TARGET_BYTES - len(around.encode())
    fact = f"kubelet root {kubelet.root} ({kubelet.found_by}): names of up to {max(longest, 0)} bytes"
    if longest >= _DYNAMIC_NAME:
        yield ok("PersistentVolumes", fact)
    else:
        yield failure(
            "PersistentVolumes",
            f"{fact}; a dynamic one has {_DYNAMIC_NAME}",
            "give the kubelet a shorter --root-dir",
        )


@HOST.add(
    "node-rights",
    "what this process may do",
    Harm.PODS,
    "Mounts and loop devices need CAP_SYS_ADMIN. A mounted ext4 grows only with CAP_SYS_RESOURCE; without "
    "it growth waits for the pod's next start.",
)
def rights(node: Node) -> Iterator[Result]:
    """Look at the capabilities."""
    held = node.capabilities
    if isinstance(held, Unread):
        yield unknown("this process", held.reason)
        return
    if not held >> CAP_SYS_ADMIN & 1:
        yield failure(
            "this process",
            f"user {node.user}, no CAP_SYS_ADMIN",
            "run it as root; in a cluster make the container privileged",
        )
    elif not held >> CAP_SYS_RESOURCE & 1:
        yield warning(
            "this process",
            "no CAP_SYS_RESOURCE: a mounted ext4 does not grow",
            "make the container privileged, or use xfs for host mounts that must grow",
            Harm.NONE,
        )
    else:
        yield ok("this process", "CAP_SYS_ADMIN and CAP_SYS_RESOURCE")


@HOST.add(
    "node-selinux",
    "SELinux",
    Harm.NONE,
    "katacsi mounts its guard with an explicit context, so that nobody relabels it. A volume's `context=` "
    "cannot be honoured in a guest.",
)
def selinux(node: Node) -> Iterator[Result]:
    """Say whether it is on."""
    enabled = node.kernel.selinux
    if isinstance(enabled, Unread):
        yield unknown("SELinux", enabled.reason)
    elif enabled:
        yield note("SELinux", "is on; leave seLinuxMount of the CSIDriver object off")
    else:
        yield ok("SELinux", "is off")


@HOST.add(
    "node-guest-statistics",
    "paths by which guests of runtime-rs are found",
    Harm.NONE,
    "runtime-rs does not say which sandbox has a volume, nor where. katacsi reads the containers' bundles "
    "and the sandboxes' folders; without them NodeGetVolumeStats has the size only.",
)
def guest_statistics(node: Node) -> Iterator[Result]:
    """Look whether katacsi sees what the node has."""
    if not any(one.flavour is Flavour.RUST for one in node.kata.configurations):
        return
    hidden = [path for path, (here, there) in node.guest_paths.items() if there and not here]
    seen = [path for path, (here, _) in node.guest_paths.items() if here]
    for path in hidden:
        yield warning(
            path,
            "the node has it, this container has not",
            "mount it read-only, with mountPropagation: HostToContainer",
        )
    if not hidden and seen:
        yield ok("guests of runtime-rs", ", ".join(seen))
    elif not hidden:
        yield note("guests of runtime-rs", "none of their folders is there; no pod of Kata has run yet")
