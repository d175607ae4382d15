"""Which way a volume goes to its pod: one pure function, the only place where this is decided."""

from __future__ import annotations

import enum

from katacsi.errors import Precondition
from katacsi.model import AccessType


class Mode(enum.Enum):
    """How a published volume reaches its workload."""

    BLOCK = "block"  #: the device node is at the target; Kata passes block devices through by itself
    DIRECT = "direct"  #: Kata's record; the guest mounts the device
    HOST = "host"  #: the host mounts the filesystem and binds it to the target


class Asked(enum.Enum):
    """What the StorageClass or the PVC asks for, by the key `katacsi.io/direct`."""

    AUTO = "auto"
    DIRECT = "true"
    HOST = "false"


class PodRuntime(enum.Enum):
    """What is known of the runtime of the pod that a volume is published for."""

    KATA = "kata"
    OTHER = "other"
    NO_CLUSTER = "no cluster"  #: katacsi runs without Kubernetes


def decide(access: AccessType, asked: Asked, runtime: PodRuntime, *, volume: str = "the volume") -> Mode:
    """Choose the mode of one publish; a runtime that cannot be read never gets here, and is never guessed.

    Raises:
        Precondition: direct was asked for, but the pod does not run in Kata: it would write into an empty
            directory of the node.
    """
    if access is AccessType.BLOCK:
        return Mode.BLOCK
    if asked is Asked.HOST:
        return Mode.HOST
    match runtime:
        case PodRuntime.KATA:
            return Mode.DIRECT
        case PodRuntime.NO_CLUSTER:
            return Mode.DIRECT if asked is Asked.DIRECT else Mode.HOST
        case PodRuntime.OTHER:
            if asked is Asked.AUTO:
                return Mode.HOST
            raise Precondition(
                f'{volume}: katacsi.io/direct is "true" but the pod does not use a Kata runtime: it would '
                "see an empty directory. Give the pod a Kata runtimeClassName, or set katacsi.io/direct to "
                '"auto" or "false" (annotation of the PVC, or parameter of its StorageClass)'
            )
