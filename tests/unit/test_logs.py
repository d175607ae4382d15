"""What the log shows, and what it never shows."""

import contextvars
import dataclasses
import datetime as dt
import io
import json
import logging
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from katacsi import logs


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def others_logging():
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream():
    """Where the log goes; it is no terminal."""
    return io.StringIO()


def test_a_line_is_json_with_what_the_call_bound(stream):
    """A pod's log is one JSON object a line: event, level, logger, UTC time, the facts and the bound ones."""
    logs.configure("info", stream=stream)
    with structlog.contextvars.bound_contextvars(rpc="NodePublishVolume", volume_id="v1:a", request_id="7"):
        structlog.get_logger("katacsi.here").info("published", device="/dev/loop0", attempts=2)
    (line,) = lines(stream)
    time = dt.datetime.fromisoformat(line.pop("timestamp"))
    assert time.utcoffset() == dt.timedelta(0)
    assert line == {
        "event": "published",
        "level": "info",
        "logger": "katacsi.here",
        "rpc": "NodePublishVolume",
        "volume_id": "v1:a",
        "request_id": "7",
        "device": "/dev/loop0",
        "attempts": 2,
    }


def test_libraries_log_the_same_way(stream):
    """A line of the standard library's logging looks like ours, with extras, bound facts and traceback."""
    logs.configure("info", stream=stream)
    with structlog.contextvars.bound_contextvars(rpc="Probe"):
        try:
            Path("/nowhere/at/all").stat()
        except OSError:
            logging.getLogger("grpclib.server").exception("failed for %s", "x", extra={"peer": "p"})
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("failed for x", "grpclib.server", "error")
    assert (line["rpc"], line["peer"]) == ("Probe", "p")
    assert "FileNotFoundError" in line["exception"]


def test_a_logger_made_before_the_set_up_follows_it(stream):
    """Modules make their loggers at import."""
    early = structlog.get_logger("katacsi.early")
    logs.configure("warning", stream=io.StringIO())
    early.warning("lost")
    logs.configure("warning", stream=stream)
    early.warning("found")
    assert [line["event"] for line in lines(stream)] == ["found"]


def test_the_level_holds_for_all(stream):
    """Below the level neither we nor a library write; chatty ones stay silent even at debug."""
    logs.configure("warning", stream=stream)
    for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        log.info("no")
        log.warning("yes")
    logs.configure("debug", stream=stream)
    structlog.get_logger("ours").debug("debug")
    logging.getLogger("hpack").debug("authorization: Bearer x")
    assert [line["event"] for line in lines(stream)] == ["yes", "yes", "debug"]


@pytest.mark.parametrize(
    ("made", "format_", "is_json"),
    [
        (io.StringIO, "auto", True),
        (Terminal, "auto", False),
        (Terminal, "json", True),
        (io.StringIO, "console", False),
    ],
)
def test_the_form_suits_who_reads(made, format_, is_json):
    """A terminal gets a readable line, anything else JSON, unless the setting says which."""
    stream = made()
    logs.configure("info", format_, stream=stream)
    structlog.get_logger("x").info("hello", fact=1)
    assert stream.getvalue().startswith("{") is is_json
    assert ("\x1b[" in stream.getvalue()) is (not is_json and stream.isatty())


def test_warnings_of_python_are_lines_too(stream):
    """A deprecation does not break the JSON of the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", stream=stream)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "old" in line["event"]


@dataclasses.dataclass
class Request:
    """A request as the door makes them."""

    volume_id: str
    secrets: dict


SECRETS = [
    {"secrets": {"user": "SESAME"}},
    {"node_stage_secrets": "SESAME"},
    {"csi.storage.k8s.io/serviceAccount.tokens": "SESAME"},
    {"chapPassword": "SESAME"},
    {"CHAP_USERNAME": "SESAME"},
    {"node.session.auth.password_in": "SESAME"},
    {"private-key": "SESAME"},
    {"Authorization": "Bearer SESAME"},
    {"request": Request("v", {"password": "SESAME"})},
    {"context": {"deep": [{"api_key": "SESAME"}]}},
    {"context": ({"encryptionKey": "SESAME"},)},
]


@pytest.mark.parametrize("facts", SECRETS)
@pytest.mark.parametrize("format_", ["json", "console"])
def test_what_sounds_secret_is_masked(stream, facts, format_):
    """By key, at any depth, in requests, from us and libraries, bound or given: the value is not shown."""
    logs.configure("info", format_, stream=stream)
    structlog.get_logger("x").info("ours", **facts)
    logging.getLogger("y").warning("theirs", extra=facts)
    structlog.contextvars.bind_contextvars(**facts)
    structlog.get_logger("x").info("bound")
    assert "SESAME" not in stream.getvalue()
    assert stream.getvalue().count(logs.REDACTED) == 3


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5).filter(lambda text: "SESAME" not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(NESTED, st.sampled_from(["secrets", "Token", "x.chap.y", "PASSWORD"]), st.integers(0, 9))
def test_masking_reaches_any_depth_and_always_ends(value, key, depth):
    """However deep a secret lies, in whatever structure, it is masked or cut off; what is shown is JSON."""
    for _ in range(depth):
        value = {"inner": [value, {key: "SESAME"}]}
    shown = json.dumps(logs.redact(None, "info", {"event": "e", "value": value, key: "SESAME"}))
    assert "SESAME" not in shown


@pytest.mark.timeout(20)
def test_a_fact_that_contains_itself_is_cut_off(stream):
    """A cycle does not hang or break the line."""
    cycle = {"name": "c"}
    cycle["left"] = cycle["right"] = cycle
    logs.configure("info", stream=stream)
    structlog.get_logger("x").info("e", fact=cycle)
    (line,) = lines(stream)
    assert line["fact"]["left"]["right"]["name"] == "c"


def test_innocent_facts_stay(stream):
    """Masking does not eat what people need."""
    facts = {
        "device": "/dev/x",
        "key": "k",
        "size_bytes": 1,
        "context": {"katacsi.io/pool": "p"},
        "none": None,
    }
    logs.configure("info", stream=stream)
    structlog.get_logger("x").info("e", **facts)
    (line,) = lines(stream)
    assert {name: line[name] for name in facts} == facts


def test_objects_do_not_break_a_line(stream):
    """A path, bytes, an exception or odd keys are shown somehow; the line is still JSON."""
    logs.configure("info", stream=stream)
    structlog.get_logger("x").info("e", error=OSError("no"), data=b"x", odd={(1, 2): {3}}, what=object)
    (line,) = lines(stream)
    assert (line["error"], line["odd"]) == ("no", {"(1, 2)": [3]})


class Broken(io.StringIO):
    """A stream that cannot be written."""

    def write(self, _text):
        raise OSError(28, "No space left on device")


class Odd:
    """A fact that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("odd")


@pytest.mark.parametrize(("made", "fact"), [(Broken, 1), (io.StringIO, Odd())], ids=["full", "odd"])
@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_line_that_cannot_be_written_breaks_no_call(capsys, made, fact, format_):
    """A log on a full disk, or a fact that cannot be shown, fails no RPC; stderr has why, and no facts."""
    logs.configure("info", format_, stream=made())
    structlog.get_logger("x").info("hello", fact=fact, other=7 * "known")
    said = capsys.readouterr().err
    assert "Logging error" in said
    assert "hello" in said
    assert "knownknown" not in said


def test_a_fact_may_have_any_name(stream):
    """Names that mean something to Python, to logging or to structlog are facts like others."""
    facts = {"name": 2, "msg": 3, "args": 4, "extra": 5, "stream": 6, "logger_": 7}
    logs.configure("info", stream=stream)
    structlog.get_logger("x").info("e", **facts)
    structlog.get_logger("x").log(logging.WARNING, "e", **facts)
    assert [{name: line[name] for name in facts} for line in lines(stream)] == [facts, facts]


def test_a_logger_without_a_name_has_its_modules(stream):
    """A backend of somebody else's may ask for a logger as structlog's manual does."""
    logs.configure("info", stream=stream)
    structlog.get_logger().info("e")
    assert lines(stream)[0]["logger"] == __name__


def test_lines_of_threads_are_whole(tmp_path):
    """Threads of ours and of libraries write at once, and no line is torn or lost."""
    with (tmp_path / "log").open("w") as stream:
        logs.configure("info", stream=stream)
        ours, theirs = structlog.get_logger("ours"), logging.getLogger("theirs")

        def write(_number):
            for _ in range(50):
                ours.info("e", fact="x" * 5000)
                theirs.info("e")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(4)))
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(written) == 400


def test_tasks_do_not_see_each_others_facts(stream):
    """What one call binds is in no other call's lines."""
    logs.configure("info", stream=stream)
    contextvars.copy_context().run(structlog.contextvars.bind_contextvars, rpc="other")
    structlog.get_logger("x").info("mine")
    assert "rpc" not in lines(stream)[0]


def test_a_node_process_does_not_pay_for_rich():
    """Importing the logs, and logging an error in colour, never loads rich; who wants it can have it."""
    program = """
import sys
from katacsi import logs
import structlog
logs.configure("info", "console")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("x").exception("bad")
print([name for name in sys.modules if name.partition(".")[0] == "rich"])
import rich.table
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert "ZeroDivisionError" in done.stderr
