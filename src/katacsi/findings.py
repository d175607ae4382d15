"""The words of `katacsi doctor`: facts that were looked up, checks, and what a check says.

They lie this low so that a backend can bring checks of its own; see `katacsi.backends.examination`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

#: The function that judges, whatever it is given to judge.
Judge = TypeVar("Judge", bound=Callable[..., Any])


# -- facts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a fact that could not be found out; never for one that is absent."""

    reason: str


#: For facts that nobody has asked for.
NOT_LOOKED: Final = Unread("was not looked at")


@dataclass(frozen=True, slots=True)
class Mounted:
    """The filesystem on which a path lies.

    Attributes:
        target: its mount point.
        type: such as `tmpfs`.
        read_only: whether it refuses writes here.
        shared: what is mounted below it here is seen by others.
    """

    target: str
    type: str
    read_only: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, as katacsi sees it.

    Attributes:
        path: its path.
        exists: whether there is something.
        folder: whether it is a folder.
        mode: its permissions.
        owner: the user's number.
        mounted: the filesystem on which it lies, or would lie; `None`: not known.
        hosts: it is the very folder that the node has at this path; `None`: the same by nature.
    """

    path: str
    exists: bool = True
    folder: bool = True
    mode: int = 0o700
    owner: int = 0
    mounted: Mounted | None = None
    hosts: bool | None = None


# -- what is said ----------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """How a fact was judged."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"
    UNKNOWN = "unknown"


class Harm(enum.Enum):
    """What becomes of it if nothing is changed."""

    DATA = "loses data"
    PODS = "breaks pods"
    SLOW = "slow"
    NONE = ""

    @property
    def grave(self) -> bool:
        """Whether nobody should go on with it."""
        return self in {Harm.DATA, Harm.PODS}


@dataclass(frozen=True, slots=True)
class Result:
    """What a check says of one subject.

    Attributes:
        verdict: the judgement.
        subject: the object that was looked at.
        fact: what was found, with the file and the key.
        remedy: what to change, or how to find out; empty where nothing is to be done.
        harm: where it is another than the check's.
    """

    verdict: Verdict
    subject: str
    fact: str
    remedy: str = ""
    harm: Harm | None = None


@dataclass(frozen=True, slots=True)
class Check(Generic[Judge]):
    """A check: a name that stays, and why anybody should care.

    Attributes:
        id: stable; scripts and the documentation name it.
        group: the heading that it stands below.
        about: what is looked at, in a few words.
        harm: what its failures and warnings bring about.
        why: the reason, for a person who wonders.
        judge: gives the results, none where it has nothing to say.
    """

    id: str
    group: str
    about: str
    harm: Harm
    why: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class Finding:
    """A result, and the check that it is of."""

    check: Check[Any]
    result: Result

    @property
    def verdict(self) -> Verdict:
        """The judgement."""
        return self.result.verdict

    @property
    def harm(self) -> Harm:
        """What becomes of it; nothing, where all is well."""
        if self.verdict in {Verdict.OK, Verdict.NOTE}:
            return Harm.NONE
        return self.check.harm if self.result.harm is None else self.result.harm

    @property
    def alarming(self) -> bool:
        """Whether it would lose data or break a pod, or nobody can tell that it would not."""
        return self.verdict is Verdict.FAILURE or (self.verdict is Verdict.UNKNOWN and self.harm.grave)


class Checks(Generic[Judge]):
    """A list of checks, in the order in which they are shown."""

    def __init__(self, group: str) -> None:
        self._group: Final = group
        self.all: Final[list[Check[Judge]]] = []

    def add(self, check_id: str, about: str, harm: Harm, why: str) -> Callable[[Judge], Judge]:
        """Make a function a check of this group."""

        def added(judge: Judge) -> Judge:
            self.all.append(Check(check_id, self._group, about, harm, why, judge))
            return judge

        return added


def ok(subject: str, fact: str) -> Result:
    """Say that all is well."""
    return Result(Verdict.OK, subject, fact)


def note(subject: str, fact: str, remedy: str = "") -> Result:
    """Say what is good to know."""
    return Result(Verdict.NOTE, subject, fact, remedy)


def warning(subject: str, fact: str, remedy: str, harm: Harm | None = None) -> Result:
    """Say what may go wrong."""
    return Result(Verdict.WARNING, subject, fact, remedy, harm)


def failure(subject: str, fact: str, remedy: str, harm: Harm | None = None) -> Result:
    """Say what loses data or breaks a pod."""
    return Result(Verdict.FAILURE, subject, fact, remedy, harm)


def unknown(subject: str, reason: str, remedy: str = "", harm: Harm | None = None) -> Result:
    """Say what could not be found out."""
    return Result(Verdict.UNKNOWN, subject, reason, remedy, harm)
