"""What the pools of this package refuse alike, whatever they are made of, and in which words.

No part of the contract for authors, which is `api` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import InvalidRequest, OutOfSpace, PoolUnavailable, Precondition, SizeOutOfRange

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from katacsi.model import ObjectId, SizeRange


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


def check_known(parameters: Mapping[str, str], known: Collection[str], prefix: str) -> None:
    """Refuse StorageClass parameters that the backend does not have; `prefix` makes full keys of its keys.

    Raises:
        InvalidRequest: a parameter is unknown.
    """
    for key in parameters:
        if key not in known:
            legal = ", ".join(prefix + name for name in known)
            raise InvalidRequest(prefix + key, f"unknown parameter; known are {legal}")


def check_holds(wish: SizeRange, source: int) -> None:
    """Refuse a size, if one was asked for, that is below the source's, in bytes.

    Raises:
        SizeOutOfRange: it is.
    """
    if 0 < wish.required < source:
        raise SizeOutOfRange(
            f"{wish.required} bytes were asked for; ask for the {source} of the source, or more"
        )
