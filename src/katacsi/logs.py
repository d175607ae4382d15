"""Logs: JSON lines in a pod, coloured lines on a terminal, with what the call at hand has bound.

Import this module before anything that imports structlog: structlog's `dev` and `tracebacks` import rich
wherever that is installed, and the CLI's dependencies install it. That would be 4.4 MiB and 45 ms more in
each node process (measured), for tracebacks that are drawn plainly here.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

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
    rendering = _console(colours=stream.isatty()) if console else _json()
    handler = _Lines(stream, rendering)
    naming = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])
    structlog.configure(
        processors=[*_common(), _as_one_argument],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *names: _Logger(naming(*names).name, handler),
        cache_logger_on_first_use=False,  # a logger made before this call would keep the old set-up
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            foreign_pre_chain=_common(),
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes all lines: those of libraries as any handler does, katacsi's own by `write`.

    Through `logging` a line of ours would become a record, climb up the tree of loggers and be taken apart
    again: about half of what a line costs (measured).
    """

    def __init__(self, stream: TextIO, rendering: list[Processor]) -> None:
        super().__init__(stream)
        self._rendering = rendering

    def write(self, event: EventDict) -> None:
        """Render a line and write it whole; that it fails is told on stderr, not to the call at work."""
        try:
            line: Any = event
            for processor in self._rendering:
                line = processor(None, "", line)
            self.acquire()
            try:
                self.stream.write(f"{line}{self.terminator}")
                self.flush()
            finally:
                self.release()
        except Exception:  # noqa: BLE001  # as `logging` does: a full disk or an odd fact breaks no call
            self.handleError(logging.makeLogRecord({"msg": event.get("event")}))


class _Logger:
    """What structlog hands an event to: a name, and one method for each level."""

    __slots__ = ("_lines", "name")

    def __init__(self, name: str, lines: _Lines) -> None:
        self.name = name
        self._lines = lines

    def info(self, event: EventDict) -> None:
        """Write the event's line."""
        self._lines.write(event)

    debug = warning = error = critical = info


def _as_one_argument(
    _logger: WrappedLogger, _method: str, event: EventDict
) -> tuple[tuple[EventDict], dict[str, object]]:
    # Not as keywords: a fact may be called "self".
    return (event,), {}


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the values of keys that sound like secrets, at any depth.

    The second line of defence: the first is that no code logs a secret. A secret inside a text is not seen.
    """
    return {key: REDACTED if sounds_secret(str(key)) else _redacted(value) for key, value in event.items()}


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
            str(key): REDACTED if sounds_secret(str(key)) else _redacted(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner, depth + 1) for inner in value]
    return value


@functools.lru_cache(maxsize=512)  # nearly all keys are names in our code
def sounds_secret(key: str) -> bool:
    """Say whether what has this key is to be masked."""
    name = key.lower()
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
    # One encoder for all lines; `json.dumps` with an option makes a new one each time.
    encode = json.JSONEncoder(default=str).encode
    return [structlog.processors.format_exc_info, lambda _logger, _method, event: encode(event)]


def _console(*, colours: bool) -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
