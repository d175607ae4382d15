"""The inventory as a page for people: plain HTML, whole in itself, readable without colours.

Names come from users and files: whatever is shown goes through `_text`.
"""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Final

from katacsi.inventory import views
from katacsi.inventory.looking import MOST_VOLUMES
from katacsi.model import format_size
from katacsi.volumes.publish.mark import Published

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from katacsi.inventory.looking import Inventory, PoolView
    from katacsi.inventory.views import View
    from katacsi.volumes.publish.mark import Staged

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 110rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { border-bottom: 1px solid #8888; padding: .4rem .8rem .4rem 0; }
th, td { text-align: left; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.small { display: block; font-size: .85rem; overflow-wrap: anywhere; }
.bad { border-left: .3rem solid #c22; font-weight: 600; padding-left: .5rem; }
"""

_POOL_HEADINGS: Final = ("Pool", "Backend", "Room for new volumes", "Volumes", "State")
_VOLUME_HEADINGS: Final = (
    "Volume", "Pool", "Size", "Filesystem", "Mode", "Pods", "Devices", "Health", "Age",
)  # fmt: skip


def render(inventory: Inventory) -> bytes:
    """Give the page. A thousand volumes take some 30 ms, so this is not for the event loop."""
    return "".join(_page(inventory)).encode()


def _page(inventory: Inventory) -> Iterator[str]:
    title = f"Volumes on {_text(inventory.node_id)}"
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} – katacsi</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"  # noqa: RUF001  # a dash
        f"<header>\n<h1>{title}</h1>\n<p>Driver {_text(inventory.driver_name)}, katacsi "
        f"{_text(inventory.version)}, at {_moment(inventory.taken_at)}. "
        '<a href="?format=json">The same as JSON</a></p>\n</header>\n<main>\n'
    )
    yield from _section("pools", "Pools", _POOL_HEADINGS, map(_pool_row, inventory.pools))
    shown = [view for pool in inventory.pools for view in pool.volumes]
    yield from _section(
        "volumes",
        "Volumes",
        _VOLUME_HEADINGS,
        (_volume_row(view, inventory.taken_at) for view in shown),
        _summary(inventory, shown),
    )
    if inventory.unseen:
        yield from _section(
            "unseen",
            "In use, and in no pool that can be read",
            ("Volume", "Mode", "Pod", "Path"),
            map(_unseen_row, inventory.unseen),
            "This node staged or published them since it booted.",
        )
    yield "</main>\n</body>\n</html>\n"


def _section(
    name: str, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = ""
) -> Iterator[str]:
    yield f'<section>\n<h2 id="{name}">{title}</h2>\n'
    # A wide table is scrolled with the keyboard, too.
    yield f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">\n<table>\n'
    if caption:
        yield f"<caption>{caption}</caption>\n"
    yield "<thead><tr>" + "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    yield "</tr></thead>\n<tbody>\n"
    for first, *rest in rows:
        cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in rest)
        yield f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    yield "</tbody>\n</table>\n</div>\n</section>\n"


def _pool_row(pool: PoolView) -> tuple[str, ...]:
    room = format_size(pool.capacity.available_bytes) if pool.capacity else "not known"
    count = f"{len(pool.volumes)}{'' if pool.complete else ' and more'}" if not pool.problem else "not known"
    state = _bad(pool.problem) if pool.problem else "usable"
    return (_text(pool.name), f"{_text(pool.backend_name)} ({pool.scope})", room, count, state)


def _volume_row(view: View, now: float) -> tuple[str, ...]:
    volume = view.volume
    pending = volume.facts.pending_size
    notes = [note for note in views.notes_of(view) if not note.startswith("grows-to")]
    condition = volume.condition
    return (
        _text(volume.csi_name) + _small(str(volume.id)),
        _text(volume.id.pool),
        f'<td class="number">{format_size(volume.size_bytes)}'
        + (_small(f"grows to {format_size(pending)} when its pod restarts") if pending else "")
        + "</td>",
        _text(views.format_of(volume)) + (_small(", ".join(notes)) if notes else ""),
        _text(views.used_by(view)) or "not in use",
        "".join(_pod(published) for published in view.published) or "none",
        "".join(_small(device) for device in views.devices(view)) or "none",
        _bad(f"abnormal: {condition.message}") if condition.abnormal else _text(condition.message),
        views.age_of(volume.created_at, now),
    )


def _pod(published: Published) -> str:
    name = views.pod_of(published) or "not a pod of the kubelet's"
    return f"{_text(name)}{_small(published.path)}"


def _unseen_row(mark: Staged | Published) -> tuple[str, ...]:
    if isinstance(mark, Published):
        return (_text(mark.volume_id), mark.mode.value, _text(views.pod_of(mark)), _text(mark.path))
    return (_text(mark.volume_id), "staged", "", _text(mark.path))


def _summary(inventory: Inventory, shown: Sequence[View]) -> str:
    published = sum(bool(view.published) for view in shown)
    abnormal = sum(view.volume.condition.abnormal for view in shown)
    orphans = sum(view.orphaned is True for view in shown)
    pending = sum(view.volume.facts.pending_size > 0 for view in shown)
    words = f"{len(shown)} shown: {published} in pods, {abnormal} abnormal, {pending} to grow"
    words += f", {orphans} without a PersistentVolume." if orphans else "."
    if not all(pool.complete for pool in inventory.pools):
        words += (
            f" There are more: the page ends after {MOST_VOLUMES}. "
            "<code>katacsi volumes list</code> has them all."
        )
    return words


def _bad(words: str) -> str:
    return f'<td class="bad">{_text(words)}</td>'


def _small(words: str) -> str:
    return f'<span class="small">{_text(words)}</span>'


def _moment(seconds: float) -> str:
    moment = time.gmtime(seconds)
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", moment)
    return f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)}">{shown}</time>'


def _text(words: str) -> str:
    """Give what a browser may be shown: no markup, and codes for signs that cannot be seen."""
    if not words.isprintable():
        words = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)
    return html.escape(words)
