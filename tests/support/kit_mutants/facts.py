"""Bugs with facts and records: forgotten, mixed up, or not on the disk."""

import contextlib
import json
import os

from katacsi.backends.api import Facts
from katacsi.errors import CorruptRecord, HostError
from katacsi.host import files
from support.kit_mutants.registry import mutant
from support.kit_reference import Disks


@mutant("facts are kept in memory only", "test_facts_are_kept")
class InMemory(Disks):
    def do_compare_and_set_facts(self, volume_id, expected, new):
        self.__dict__.setdefault("facts", {})[volume_id.name] = new

    def volume(self, name, record):
        facts = self.__dict__.get("facts", {}).get(name)
        return super().volume(name, {**record, "facts": facts.to_dict()} if facts else record)


@mutant("the compare of compare-and-set is left out", "test_facts_that_changed_meanwhile_are_not_overwritten")
class NoCompare(Disks):
    def do_compare_and_set_facts(self, volume_id, expected, new):
        present = Facts.from_dict(self.ready(self.own(volume_id))["facts"])
        super().do_compare_and_set_facts(volume_id, present, new)


@mutant("one fact is dropped", "test_facts_are_kept")
class OneFactDropped(Disks):
    def write(self, name, record):
        super().write(name, {**record, "facts": {**record["facts"], "pending_size": 0}})


@mutant("a new volume has the facts of the former one of its name", "test_facts_go_with_the_volume")
class FormerFacts(Disks):
    def remove(self, name):
        with contextlib.suppress(HostError):
            self.__dict__.setdefault("former", {})[name] = self.read(name)["facts"]
        super().remove(name)

    def choose(self, name, request):
        record = super().choose(name, request)
        return {**record, "facts": self.__dict__.get("former", {}).get(name, record["facts"])}


@mutant("attributes are forgotten", "test_a_new_volume_is_what_was_asked_for")
class NoAttributes(Disks):
    def volume(self, name, record):
        return super().volume(name, {**record, "attributes": {}})


@mutant("created_at is 0", "test_a_volume_says_when_it_was_made")
class NoMoment(Disks):
    def now(self):
        return 0.0


@mutant("records are written in place", "test_killed_facts_are_the_old_or_the_new_ones")
class InPlace(Disks):
    def write(self, name, record):
        with self.path(name).open("w") as file:
            file.write(json.dumps(record))
            file.flush()
            os.fsync(file.fileno())
        fd = os.open(self.state, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


@mutant(
    "records are not synced",
    "test_facts_are_stored_before_they_are_told",
    "test_a_new_volume_is_stored_before_it_is_told",
)
class NoSync(Disks):
    def write(self, name, record):
        files.write_atomically(self.path(name), json.dumps(record).encode(), durable=False)


class OwnWriting(Disks):
    """Writes a file and renames it, in steps that a bug can leave out."""

    def write(self, name, record):
        temporary = self.state / f"{name}.tmp"
        with temporary.open("w") as file:
            file.write(json.dumps(record))
            file.flush()
            self.sync(file.fileno())
        temporary.rename(self.path(name))
        self.sync_folder()

    def sync(self, fd):
        try:
            os.fsync(fd)
        except OSError as error:
            raise HostError(str(error)) from error

    def sync_folder(self):
        fd = os.open(self.state, os.O_RDONLY)
        try:
            self.sync(fd)
        finally:
            os.close(fd)


@mutant(
    "the folder of the records is not synced",
    "test_facts_are_stored_before_they_are_told",
    "test_a_new_volume_is_stored_before_it_is_told",
)
class NoFolderSync(OwnWriting):
    def sync_folder(self):
        pass


@mutant("the error of a sync is swallowed", "test_a_failed_sync_is_an_error")
class SyncErrorSwallowed(OwnWriting):
    def sync(self, fd):
        with contextlib.suppress(OSError):
            os.fsync(fd)


@mutant("attach does not sync what it relies on", "test_attach_stores_what_may_not_be_stored[attached]")
class AttachWithoutSync(Disks):
    def write(self, name, record):
        if record != self.find_record(name):
            super().write(name, record)


@mutant(
    "a damaged record is called absent",
    "test_a_volume_with_a_damaged_record_is_not_absent",
)
class DamagedIsAbsent(Disks):
    def find_record(self, name):
        try:
            return super().find_record(name)
        except CorruptRecord:
            return None
