"""Logs: JSON lines in a pod, coloured lines on a terminal, with what the call at hand has bound.

Import this module before anything that imports structlog: structlog's `dev` and `tracebacks` import rich
wherever that is installed, and the CLI's dependencies install it. That would be 4.4 MiB and 45 ms more in
each node process (measured), for tracebacks that are drawn plainly here.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_rich_is_there = "rich" in sys.modules
if not _rich_is_there:
    sys.modules["rich"] = None  # type: ignore[assignment]  # "import rich" fails, and structlog does without
try:
    import structlog
finally:
    if not _rich_is_there:
        del sys.modules["rich"]  # the CLI may still want it

REDACTED = "[redacted]"

#: A key that contains one of these, however it is spelled, does not show its value.
_SECRET_WORDS = ("secret", "token", "password", "passwd", "passphrase", "chap", "credential", "authorization")
_SECRET_WORDS_JOINED = ("privatekey", "encryptionkey", "apikey")

# Nested further than any of ours; beyond it nothing is shown, rather than shown unread.
_MAX_DEPTH = 6

#: Libraries that write a line per frame at DEBUG, headers included.
_CHATTY = ("hpack", "h2", "asyncio")


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 -- the setting's name
    *,
    stream: TextIO | None = None,
) -> None:
    """Send everything that katacsi and its libraries log to one stream (stderr), each line in one form.

    Args:
        level: the least severe level that is written.
        format: `auto` is `console` on a terminal and `json` elsewhere.
        stream: where to, if not stderr.
    """
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = format == "console" or (format == "auto" and stream.isatty())
    structlog.configure(
        processors=[*_common(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a logger made before this call would keep the old set-up
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(colours=stream.isatty()) if console else _json()),
            ],
            foreign_pre_chain=_common(),
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the values of keys that sound like secrets, at any depth.

    The second line of defence: the first is that no code logs a secret. A secret inside a text is not seen.
    """
    return {key: REDACTED if _sounds_secret(key) else _redacted(value) for key, value in event.items()}


def _redacted(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    if depth >= _MAX_DEPTH:
        return "…"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Requests are dataclasses; their repr would show every field.
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {
            str(key): REDACTED if _sounds_secret(key) else _redacted(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner, depth + 1) for inner in value]
    return value


def _sounds_secret(key: object) -> bool:
    name = str(key).lower()
    joined = name.replace("_", "").replace("-", "").replace(".", "")
    return any(word in name for word in _SECRET_WORDS) or any(word in joined for word in _SECRET_WORDS_JOINED)


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


def _console(*, colours: bool) -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
