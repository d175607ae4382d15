"""What a PersistentVolumeClaim asks for by its annotations, read once when its volume is made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from katacsi.errors import Precondition
from katacsi.kube.objects import CLAIM, ObjectRef, uid_in
from katacsi.volumes import parameters
from katacsi.volumes.parameters import DIRECT
from katacsi.volumes.publish.mode import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.api import Volume
    from katacsi.kube.objects import Claim
    from katacsi.volumes.cluster import Cluster
    from katacsi.volumes.parameters import Parameters

#: What csi-provisioner adds to the parameters with --extra-create-metadata.
NAME: Final = "csi.storage.k8s.io/pvc/name"
NAMESPACE: Final = "csi.storage.k8s.io/pvc/namespace"

#: The annotation of manifests that were written for other drivers of direct volumes.
SKIP_HOSTMOUNT: Final = "skip-hostmount"
_SKIP_HOSTMOUNT: Final = {"true": Asked.DIRECT, "false": Asked.HOST}


def reference(parameters: Mapping[str, str], volume_name: str) -> ObjectRef | None:
    """Say which claim a volume is for; None where the caller does not (a provisioner of another kind).

    csi-provisioner names the volume after the claim's UID, which tells a claim from a later one of its name.
    """
    name, namespace = parameters.get(NAME), parameters.get(NAMESPACE)
    if not name or not namespace:
        return None
    return ObjectRef(CLAIM, namespace, name, uid_in(volume_name))


def in_context(ref: ObjectRef | None) -> dict[str, str]:
    """Give what a volume's context says of the claim it is made for, so that the node knows whom to tell."""
    return {parameters.CLAIMED_BY: f"{ref.namespace}/{ref.name}"} if ref else {}


def told_by_context(context: Mapping[str, str], volume_name: str) -> ObjectRef | None:
    """Say which claim a volume was made for; nothing is decided by it.

    A PersistentVolume that was given to another claim since still names the first, with its UID.
    """
    namespace, _, name = context.get(parameters.CLAIMED_BY, "").partition("/")
    return ObjectRef(CLAIM, namespace, name, uid_in(volume_name)) if namespace and name else None


def asked_by(claim: Claim) -> Asked | None:
    """Read what a claim asks for; None where it says nothing, and the StorageClass decides.

    Raises:
        Precondition: an annotation has another value than those that are legal. The person who wrote it can
            correct it, so the provisioner has to come again soon, as it does not for an invalid request.
    """
    own, compatible = claim.annotations.get(DIRECT), claim.annotations.get(SKIP_HOSTMOUNT)
    if own is not None:
        return _legal(claim, DIRECT, own, {asked.value: asked for asked in Asked})
    if compatible is not None:
        return _legal(claim, SKIP_HOSTMOUNT, compatible, _SKIP_HOSTMOUNT)
    return None


async def overlaid(
    cluster: Cluster, ref: ObjectRef, chosen: Parameters, existing: Volume | None
) -> Parameters:
    """Give what a StorageClass says with what the claim says on top; a volume that exists remembers that.

    Raises:
        Precondition: the claim is gone, or asks for something that is not legal.
        Unavailable: it cannot be read now.
    """
    if existing is None:
        asked = asked_by(await cluster.claim(ref))
        return chosen if asked is None else replace(chosen, asked=asked, asked_by_claim=True)
    if existing.attributes.get(parameters.DIRECT_FROM) != parameters.CLAIM:
        return chosen
    return replace(chosen, asked=parameters.asked_for(existing.attributes), asked_by_claim=True)


def as_first_read(wishes: Mapping[str, str], had: Mapping[str, str]) -> dict[str, str]:
    """Give a volume's wishes with what its claim said at the first call.

    What the claim says by now does not make it another's volume.
    """
    if parameters.DIRECT_FROM not in had and parameters.DIRECT_FROM not in wishes:
        return dict(wishes)
    read = (DIRECT, parameters.DIRECT_FROM)
    others = {key: value for key, value in wishes.items() if key not in read}
    return others | {key: had[key] for key in read if key in had}


def _legal(claim: Claim, key: str, value: str, values: Mapping[str, Asked]) -> Asked:
    if value not in values:
        raise Precondition(
            f"{claim.ref}: its annotation {key} is {value!r}, which is not one of "
            f"{', '.join(repr(legal) for legal in values)}; correct it "
            f"(kubectl -n {claim.ref.namespace} annotate --overwrite pvc {claim.ref.name} {key}=…)"
        )
    return values[value]
