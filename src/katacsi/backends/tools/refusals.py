"""What our pools refuse alike, whatever they are made of, and in which words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import OperationPending, OutOfSpace, PoolUnavailable, Precondition

if TYPE_CHECKING:
    from katacsi.backends.facts import Facts
    from katacsi.model import ObjectId, VolumeId


def check_own(object_id: ObjectId, pool: str, uid: str, *, storage: str, remedy: str) -> None:
    """Refuse an id that is not of this pool: what it names may exist elsewhere, so it is not absent.

    `storage` says what the pool is made of here, `remedy` how the former storage comes back.

    Raises:
        PoolUnavailable: the id is of another pool, about which nothing can be said here.
    """
    if object_id.pool_uid != uid:
        raise PoolUnavailable(
            f"{object_id.KIND} {object_id}: lies in pool storage {object_id.pool_uid}, but pool {pool!r} on "
            f"this node is {uid} ({storage}); ask the node that has it, or {remedy}"
        )


def check_source(source: ObjectId, pool: str, uid: str) -> None:
    """Refuse to copy what lies elsewhere.

    Raises:
        OutOfSpace: it lies in other storage; the node that has it can make the copy.
    """
    if source.pool_uid != uid:
        raise OutOfSpace(
            f"{source.KIND} {source}: lies in pool storage {source.pool_uid}, and pool {pool!r} on this node "
            f"is {uid}; a copy is made where its source lies"
        )


def check_writable(pool: str, *, read_only: bool) -> None:
    """Refuse a change to a pool that is only viewed.

    Raises:
        Precondition: it is.
    """
    if read_only:
        raise Precondition(f"pool {pool!r} was opened for viewing; only `katacsi serve` changes it")


def check_expected(volume_id: VolumeId, found: Facts, expected: Facts) -> None:
    """Refuse to replace facts that are not what the caller saw.

    Raises:
        OperationPending: they changed meanwhile.
    """
    if found != expected:
        raise OperationPending(
            f"volume {volume_id}: its facts are {found}, not {expected}, so somebody changed them; retry"
        )
