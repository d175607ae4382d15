"""tools/lab_engines.py: which engine boots the lab's machines; and what a test does where none boots."""

from __future__ import annotations

import pytest

import lab_engines
import lab_uml_registers
from lab_engines import VARIABLE, Choice
from lab_packages import Unavailable
from lab_qemu import Emulated
from lab_uml import UserModeLinux
from support import lab_host


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def engines(monkeypatch, **faults):
    """Have each engine boot, or fail for a reason."""

    def tried(engine, fault):
        if fault:
            raise Unavailable(fault)
        return Choice(engine, "it boots here")

    made = {"uml": UserModeLinux(), "qemu": Emulated()}
    found = {name: lambda name=name: tried(made[name], faults.get(name)) for name in made}
    monkeypatch.setattr(lab_engines, "ENGINES", found)


def test_user_mode_linux_is_taken_where_it_boots(monkeypatch):
    """It is four times quicker, and the other one is not even tried."""
    engines(monkeypatch, qemu="it was tried")
    choice = lab_engines.choose()
    assert (choice.engine.name, choice.why) == ("uml", "it boots here")


def test_else_the_emulated_machine_and_the_reason(monkeypatch):
    """Whoever reads the first line of a run learns why it is slow."""
    engines(monkeypatch, uml="no ptrace")
    choice = lab_engines.choose()
    assert (choice.engine.name, choice.why) == ("qemu", "it boots here; uml: no ptrace")


def test_where_none_boots_both_reasons_are_named(monkeypatch):
    """The message is what a skipped tier shows."""
    engines(monkeypatch, uml="no ptrace", qemu="not root")
    with pytest.raises(Unavailable, match="no engine boots here: uml: no ptrace; qemu: not root"):
        lab_engines.choose()


def test_the_variable_is_obeyed(monkeypatch):
    """The one that is wanted is taken, or its failure told: never another one instead."""
    monkeypatch.setenv(VARIABLE, "qemu")
    engines(monkeypatch)
    choice = lab_engines.choose()
    assert (choice.engine.name, choice.why) == ("qemu", f"{VARIABLE} says so; it boots here")
    engines(monkeypatch, qemu="not root")
    with pytest.raises(Unavailable, match=r"^not root$"):
        lab_engines.choose()
    monkeypatch.setenv(VARIABLE, "vmware")
    with pytest.raises(Unavailable, match=f"{VARIABLE}=vmware is no engine: there are uml and qemu"):
        lab_engines.choose()


@pytest.mark.parametrize(
    ("faults", "tried"),
    [
        ([""], [None]),
        (["userspace - ptrace set fp regs failed, errno = 14", ""], [None, "library"]),
        (["check_ptrace : not allowed"], [None]),
        (["userspace - ptrace set fp regs failed, errno = 14", "another"], [None, "library"]),
    ],
)
def test_nothing_is_compiled_but_for_too_few_registers(monkeypatch, faults, tried):
    """A machine is booted as it is; the library is made where the registers are what it dies of."""
    seen = []
    answers = iter(faults)

    def fault(engine):
        seen.append(engine.preloaded)
        return next(answers)

    monkeypatch.setattr(lab_engines, "_fault", fault)
    monkeypatch.setattr(lab_uml_registers, "library", lambda: "library")
    if faults[-1]:
        with pytest.raises(Unavailable, match=f"user-mode Linux does not boot here: {faults[-1]}"):
            lab_engines._working_way()
    else:
        assert lab_engines._working_way().preloaded == tried[-1]
    assert seen == tried


@pytest.mark.parametrize(
    ("required", "outcome"),
    [
        ("", pytest.skip.Exception),
        ("unit rpc", pytest.skip.Exception),
        ("unit,lab", pytest.fail.Exception),
    ],
)
def test_a_lab_that_is_missing_is_a_skip_unless_it_is_required(monkeypatch, required, outcome):
    """On a machine of one's own it is a reason to read; in CI a failure."""
    monkeypatch.setenv("KATACSI_REQUIRE", required)
    with pytest.raises(outcome, match="no engine boots here"):
        lab_host.needs(lab_host.Engine("", "no engine boots here: uml: a; qemu: b"))
