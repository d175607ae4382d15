"""Backends bring checks of their own: ours, an author's, one without, and ones that are broken."""

from __future__ import annotations

import sys

import pytest

from katacsi.doctor import examine
from katacsi.findings import Verdict
from katacsi.settings import Settings

PLAIN = """
import pydantic
from katacsi.backends.api import Scope

class Own(pydantic.BaseModel, extra="forbid"):
    colour: str = "red"

class Backend:
    Settings = Own
    parameters = {}
    scope = Scope.LOCAL

    def __init__(self, settings, context):
        pass

    async def start(self):
        pass

    async def close(self):
        pass

    async def capacity(self, parameters):
        from katacsi.backends.api import Capacity
        return Capacity(2 << 30, 2 << 30)
"""
WITH_CHECKS = f"""{PLAIN}
from katacsi.backends.examination import BackendChecks
from katacsi.findings import Harm, ok, warning

CHECKS = BackendChecks("Pools")

@CHECKS.add("pool-colour", "the colour of a pool", Harm.SLOW, "Red is slow.")
async def colour(examination):
    for pool in examination.pools:
        if pool.settings.colour == "red":
            yield warning(pool.subject, "is red", "paint it")
        elif pool.settings.colour == "white":
            yield ok(pool.subject, "is white")
        else:
            yield ok(pool.subject, "is primed")
            raise RuntimeError("no such paint")

class Checked(Backend):
    @classmethod
    def checks(cls):
        return CHECKS.all
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with one backend: install(name, module's source, class)."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, source, cls):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[katacsi.backends]\n{name} = {name}_module:{cls}\n")
        (tmp_path / f"{name}_module.py").write_text(source)
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)

    return make


@pytest.fixture
def findings(tmp_path):
    """Look at a node with these pools; give what is said of a subject, by check."""

    async def look(subject, **pools):
        found = await examine.examine(Settings(pools=pools) if pools else None, host_root=tmp_path)
        return {one.check.id: one for one in found if one.result.subject == subject}

    return look


async def test_an_author_s_checks_are_run_over_the_backend_s_own_pools(install, findings):
    """With the settings that each pool was given; pools of other backends are none of theirs."""
    install("paint", WITH_CHECKS, "Checked")
    install("plain", PLAIN, "Backend")
    pools = {
        "one": {"backend": "paint"},
        "two": {"backend": "paint", "colour": "white"},
        "three": {"backend": "plain"},
    }
    one = (await findings("pool one (paint)", **pools))["pool-colour"]
    assert (one.verdict, one.harm.value, one.result.remedy) == (Verdict.WARNING, "slow", "paint it")
    two = (await findings("pool two (paint)", **pools))["pool-colour"]
    assert (two.verdict, two.check.group, two.check.why) == (Verdict.OK, "Pools", "Red is slow.")
    assert "pool-colour" not in await findings("pool three (plain)", **pools)


async def test_a_backend_without_checks_is_whole(install, findings):
    """Whether its pools open, and their room, doctor asks by itself."""
    install("plain", PLAIN, "Backend")
    found = await findings("pool one (plain)", one={"backend": "plain"})
    assert {name: one.verdict for name, one in found.items()} == {
        "pool-usable": Verdict.OK,
        "pool-room": Verdict.OK,
    }
    assert (await findings("backend plain"))["pool-backends"].verdict is Verdict.OK


async def test_a_check_that_fails_is_no_verdict(install, findings):
    """What it had said counts; the rest is not known, and nothing else is lost."""
    install("paint", WITH_CHECKS, "Checked")
    pools = {"one": {"backend": "paint", "colour": "green"}}
    assert (await findings("pool one (paint)", **pools))["pool-colour"].verdict is Verdict.OK
    (failed,) = (await findings("pool-colour", **pools)).values()
    assert failed.verdict is Verdict.UNKNOWN
    assert "no such paint" in failed.result.fact
    assert (await findings("loop devices", **pools))["pool-loop-devices"]


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        (WITH_CHECKS.replace("pool-colour", "pool-disk"), "has the name of another check"),
        (WITH_CHECKS.replace("pool-colour", "pool-usable"), "has the name of another check"),
        (WITH_CHECKS.replace("pool-colour", "Colour"), "not named pool-"),
        (WITH_CHECKS.replace("return CHECKS.all", "return [1]"), "something else than checks"),
        (WITH_CHECKS.replace("return CHECKS.all", "raise OSError(5)"), "its checks() failed"),
    ],
)
async def test_checks_that_cannot_be_shown(install, findings, source, fact):
    """A name is one check's, for scripts go by it; the pools are looked at all the same."""
    install("paint", source, "Checked")
    found = (await findings("backend paint", one={"backend": "paint"}))["pool-backends"]
    assert found.verdict is Verdict.UNKNOWN
    assert fact in found.result.fact
    assert set(await findings("pool one (paint)", one={"backend": "paint"})) == {"pool-usable", "pool-room"}


async def test_our_own_checks_keep_their_names(install, findings):
    """Whatever a package is called: of two with one name the foreign one is not shown."""
    install("another", WITH_CHECKS.replace("pool-colour", "pool-loop-devices"), "Checked")
    assert (await findings("backend another"))["pool-backends"].verdict is Verdict.UNKNOWN
    assert (await findings("backend loopfile"))["pool-backends"].verdict is Verdict.OK


async def test_a_backend_that_cannot_be_imported(install, findings):
    """As long as no pool names it, it is worth a note and stops nothing."""
    install("broken", "import no_such_module", "Backend")
    found = (await findings("backend broken"))["pool-backends"]
    assert found.verdict is Verdict.NOTE
    assert "no_such_module" in found.result.fact
