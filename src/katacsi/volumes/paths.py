"""What a path in a request has to look like before anything is done with it."""

from __future__ import annotations

from katacsi.errors import InvalidRequest

#: Linux's PATH_MAX, with its closing zero.
MAX_PATH_BYTES = 4095


def check(field: str, path: str) -> None:
    """Refuse a path that could mean another place than it says.

    Raises:
        InvalidRequest: relative, too long, with `..` or a zero byte, or the root itself.
    """
    if not path.startswith("/"):
        raise InvalidRequest(field, f"{path!r} is not an absolute path")
    if "\0" in path or len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise InvalidRequest(
            field, f"not a path that Linux takes (a zero byte, or over {MAX_PATH_BYTES} bytes)"
        )
    parts = path.split("/")
    if ".." in parts:
        raise InvalidRequest(field, f"{path!r} has a `..` in it; name the place itself")
    if not any(parts):
        raise InvalidRequest(field, "the root directory cannot be used")
