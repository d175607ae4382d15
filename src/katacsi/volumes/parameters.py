"""StorageClass parameters and volume context: which keys exist, what they may say, who is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from katacsi.errors import InvalidRequest
from katacsi.volumes.publish.mode import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping

POOL = "katacsi.io/pool"
DIRECT = "katacsi.io/direct"
FS_GROUP_CHANGE_POLICY = "katacsi.io/fs-group-change-policy"
MKFS_OPTIONS = "katacsi.io/mkfs-options"

#: Keys that sidecars put among the parameters and the context: never unknown, never compared.
INJECTED_PREFIXES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")

FsGroupChangePolicy = Literal["OnRootMismatch", "Always", "None"]
FS_GROUP_CHANGE_POLICIES: tuple[FsGroupChangePolicy, ...] = get_args(FsGroupChangePolicy)

#: The stored attribute that remembers the filesystem asked for at creation; "" for a block volume.
FILESYSTEM = "filesystem"

#: The stored attribute that remembers that the claim's annotation, not the StorageClass, chose `DIRECT`.
DIRECT_FROM = "direct-from"
CLAIM = "claim"

#: The stored attribute that remembers the setting `kube.cluster_name` of the driver that made the volume.
CLUSTER = "cluster"

#: The key of a volume's context that names its claim, as `namespace/name`; no parameter, and not stored.
CLAIMED_BY = "katacsi.io/claim"

_CONTEXT_KEYS = (DIRECT, FS_GROUP_CHANGE_POLICY, MKFS_OPTIONS)

_ASKED = {asked.value: asked for asked in Asked}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a StorageClass says: katacsi's own choices, and the backend's keys without their prefix."""

    pool: str = ""
    asked: Asked = Asked.AUTO
    fs_group_change_policy: str = ""
    mkfs_options: str = ""
    backend: Mapping[str, str] = field(default_factory=dict)
    backend_name: str = ""
    asked_by_claim: bool = False

    def attributes(self, filesystem: str, cluster: str = "") -> dict[str, str]:
        """Give what has to be remembered with the volume."""
        chosen = {
            DIRECT: self.asked.value,
            DIRECT_FROM: CLAIM if self.asked_by_claim else "",
            FS_GROUP_CHANGE_POLICY: self.fs_group_change_policy,
            MKFS_OPTIONS: self.mkfs_options,
            FILESYSTEM: filesystem,
            CLUSTER: cluster,
        }
        return {key: value for key, value in chosen.items() if value}


def parse(raw: Mapping[str, str]) -> Parameters:
    """Read the parameters of a StorageClass.

    Backend keys (`<backend>.katacsi.io/<key>`) are only sorted out here; their backend checks them.

    Raises:
        InvalidRequest: an unknown key or an illegal value, with what is legal.
    """
    backend_name = ""
    backend: dict[str, str] = {}
    for key, value in raw.items():
        if key.startswith(INJECTED_PREFIXES) or key in (POOL, *_CONTEXT_KEYS):
            continue
        domain, _, name = key.partition("/")
        owner = domain.removesuffix(".katacsi.io")
        if owner == domain or not owner or not name:
            raise InvalidRequest(
                f"parameters[{key}]",
                f"unknown parameter; katacsi knows {', '.join((POOL, *_CONTEXT_KEYS))} and "
                "<backend>.katacsi.io/<key> (see `katacsi backends`)",
            )
        if backend_name and owner != backend_name:
            raise InvalidRequest(
                f"parameters[{key}]", f"a volume has one backend, and {backend_name} is named too"
            )
        backend_name = owner
        backend[name] = value
    return Parameters(
        pool=raw.get(POOL, ""),
        asked=asked_for(raw),
        fs_group_change_policy=_one_of(raw, FS_GROUP_CHANGE_POLICY, FS_GROUP_CHANGE_POLICIES),
        mkfs_options=raw.get(MKFS_OPTIONS, ""),
        backend=backend,
        backend_name=backend_name,
    )


def asked_for(mapping: Mapping[str, str]) -> Asked:
    """Read `katacsi.io/direct` from parameters, attributes or a volume context; absent means auto.

    Raises:
        InvalidRequest: another value than auto, true or false.
    """
    return _ASKED[_one_of(mapping, DIRECT, tuple(_ASKED)) or Asked.AUTO.value]


def fs_group_change_policy(attributes: Mapping[str, str]) -> FsGroupChangePolicy:
    """Read when a volume's files are given to the pod's group.

    The default looks at the root directory only: walking a large volume at each pod start takes minutes.
    """
    wished = attributes.get(FS_GROUP_CHANGE_POLICY)
    return next((policy for policy in FS_GROUP_CHANGE_POLICIES if policy == wished), "OnRootMismatch")


def volume_context(attributes: Mapping[str, str]) -> dict[str, str]:
    """Give what the node needs to know of a volume's attributes; the same for every retry."""
    return {key: attributes[key] for key in _CONTEXT_KEYS if key in attributes}


def effective(attributes: Mapping[str, str], context: Mapping[str, str]) -> dict[str, str]:
    """Give the attributes with a (static) volume's own context on top; other keys do not count."""
    return {**attributes, **volume_context(context)}


def _one_of(mapping: Mapping[str, str], key: str, legal: tuple[str, ...]) -> str:
    value = mapping.get(key, "")
    if value and value not in legal:
        raise InvalidRequest(f"parameters[{key}]", f"{value!r} is not one of {', '.join(legal)}")
    return value
