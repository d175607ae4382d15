"""`/volumes` of the metrics port: the inventory as a page for people, or as JSON for programs."""

from __future__ import annotations

import ipaddress
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from katacsi.host.offloop import off_loop
from katacsi.httpserver import PLAIN, Answer
from katacsi.inventory import page, views
from katacsi.inventory.looking import MOST_VOLUMES
from katacsi.volumes.publish.mark import Published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.httpserver import Request
    from katacsi.inventory.looking import Inventory, Lookout, PoolView

_HTML: Final = "text/html; charset=utf-8"
_JSON: Final = "application/json"

#: Nothing of the page is loaded, run, kept, or shown in another page.
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


class InventoryPage:
    """Answers requests for the inventory.

    Args:
        lookout: takes the inventories.
        only_local: refuse requests by a name of DNS. A web page that a person looks at could have its own
            name lead to the loopback address, and read what that person's browser reaches.
    """

    def __init__(self, lookout: Lookout, *, only_local: bool) -> None:
        self._lookout = lookout
        self._only_local = only_local

    async def __call__(self, request: Request) -> Answer:
        """Answer a GET of `/volumes`."""
        if self._only_local and not _is_local(request.headers.get("host", "")):
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "ask by an IP address, or by `localhost`")
        form = _form(request)
        if form is None:
            return _refusal(HTTPStatus.BAD_REQUEST, "format: is `html` or `json`")
        inventory = await self._lookout.take()
        # In a thread: a thousand volumes would stop the event loop for as long as they take.
        body = await off_loop(page.render if form == _HTML else as_json, inventory)
        return Answer(body, content_type=form, headers=_HEADERS)


def _refusal(status: HTTPStatus, words: str) -> Answer:
    return Answer(f"{words}\n".encode(), status, PLAIN)


def _form(request: Request) -> str | None:
    match parse_qs(request.query).get("format", []):
        case []:
            accept = request.headers.get("accept", "")
            return _JSON if _JSON in accept and "text/html" not in accept else _HTML
        case ["html"]:
            return _HTML
        case ["json"]:
            return _JSON
        case _:
            return None


def _is_local(host: str) -> bool:
    """Whether a Host header names an address, or nothing that another's DNS decides about."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name in {"", "localhost"}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def as_json(inventory: Inventory) -> bytes:
    """Give the inventory as JSON."""
    head = {
        "driver": inventory.driver_name,
        "version": inventory.version,
        "node": inventory.node_id,
        "taken_at": inventory.taken_at,
        "complete": inventory.complete,
        "most_volumes": MOST_VOLUMES,
        "pools": [_pool(pool) for pool in inventory.pools],
        "unseen": [_mark(mark) for mark in inventory.unseen],
    }
    return "".join(_chunks(head, inventory)).encode()


def _chunks(head: dict[str, Any], inventory: Inventory) -> Iterator[str]:
    # Volume by volume: the encoder lets no other thread run until it is done with what it was given.
    yield json.dumps(head)[:-1] + ', "volumes": ['
    comma = ""
    for pool in inventory.pools:
        for view in pool.volumes:
            yield comma + json.dumps(views.as_json(view))
            comma = ", "
    yield "]}\n"


def _pool(pool: PoolView) -> dict[str, Any]:
    capacity = pool.capacity
    return {
        "name": pool.name,
        "backend": pool.backend_name,
        "scope": pool.scope,
        "usable": not pool.problem,
        "problem": pool.problem or None,
        "complete": pool.complete,
        "available_bytes": capacity.available_bytes if capacity else None,
        "maximum_volume_bytes": capacity.maximum_volume_bytes if capacity else None,
    }


def _mark(mark: Any) -> dict[str, Any]:  # noqa: ANN401  # of either kind
    if isinstance(mark, Published):
        return {"volume_id": mark.volume_id, "published": views.published_as_json(mark)}
    return {"volume_id": mark.volume_id, "staged": mark.path}
