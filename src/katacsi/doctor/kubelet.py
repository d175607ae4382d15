"""The kubelet's folder: where it is, whether mounts and sockets below it reach it, how long its paths are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.directvolume.names import MAX_TARGET_BYTES
from katacsi.doctor import hostfiles
from katacsi.findings import NOT_LOOKED, Checks, Harm, Unread, failure, note, ok, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.processes import Processes
    from katacsi.findings import Place, Result

KUBELET: Final[Checks[Judge]] = Checks("Node")

#: Where the kubelets of common distributions keep their pods.
_KUBELET_ROOTS: Final = (
    "/var/lib/kubelet",
    "/var/lib/k0s/kubelet",
    "/var/snap/microk8s/common/var/lib/kubelet",
)

#: Where the kubelet looks for the sockets of plugins, below its folder.
_REGISTRY: Final = "plugins_registry"

#: A dynamic PersistentVolume is named `pvc-` and a UUID.
_DYNAMIC_NAME: Final = 4 + 36


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The kubelet's root folder, how it was found, and the folder in which it looks for sockets."""

    root: str = "/var/lib/kubelet"
    found_by: str = "by default"
    place: Place | Unread = NOT_LOOKED
    registry: Place | Unread = NOT_LOOKED


def find(files: HostFiles, processes: Processes, *, contained: bool) -> Kubelet:
    """Find the kubelet's root folder: as it was started, else where there is one."""
    root, found_by = _of_process(processes) or _of_folders(files) or (_KUBELET_ROOTS[0], "by default")
    return Kubelet(
        root,
        found_by,
        hostfiles.place(root, files, contained=contained),
        hostfiles.place(f"{root}/{_REGISTRY}", files, contained=contained),
    )


def _of_process(processes: Processes) -> tuple[str, str] | None:
    roots = [process.option("--root-dir") for process in processes.named("kubelet")]
    return next(((root, "its --root-dir") for root in roots if root), None)


def _of_folders(files: HostFiles) -> tuple[str, str] | None:
    return next(((root, "it is there") for root in _KUBELET_ROOTS if files.is_there(root)), None)


# -- checks ---------------------------------------------------------------------------------------------


@KUBELET.add(
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


@KUBELET.add(
    "node-registration",
    "the kubelet finds the driver's registration socket",
    Harm.PODS,
    "With `kubelet.registration_socket` the driver registers itself. A socket in another folder, or in a "
    "container's own, is never found, and the kubelet knows no driver of that name.",
)
def registration(node: Node) -> Iterator[Result]:
    """Look whether the socket is configured where this node's kubelet looks."""
    socket = node.settings.kubelet.registration_socket if node.settings else None
    if socket is None:
        return
    place, wanted = node.kubelet.registry, f"{node.kubelet.root}/{_REGISTRY}"
    subject = "kubelet.registration_socket"
    mount = f"mount the node's {wanted} at the same path"
    if str(PurePosixPath(socket).parent) != wanted:
        yield failure(
            subject,
            f"{socket} is not in {wanted}, where the kubelet looks (root {node.kubelet.found_by})",
            f"set it to {wanted}/{PurePosixPath(socket).name}",
        )
    elif isinstance(place, Unread):
        yield unknown(wanted, place.reason, "run doctor as root on the node")
    elif not place.exists and node.contained:
        yield failure(wanted, "is not there in this container", mount)
    elif not place.exists:
        yield note(wanted, "is not there: no kubelet has run here, or it has another --root-dir")
    elif place.hosts is False:
        yield failure(wanted, "is another folder than the node's", mount)
    else:
        yield ok(subject, f"is in {wanted}")


@KUBELET.add(
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
