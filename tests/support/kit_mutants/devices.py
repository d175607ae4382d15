"""Bugs with devices: given out twice, given to the next while somebody has them, or left behind."""

import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from katacsi.backends.api import Facts
from katacsi.errors import VolumeInUse
from katacsi.host import loop
from katacsi.model import MIB
from support.kit_mutants.registry import mutant
from support.kit_reference import Disks


@mutant("detach answers OK while the device is held", "test_a_held_device_stays")
class DetachHeld(Disks):
    def do_detach(self, volume_id):
        with contextlib.suppress(VolumeInUse):
            super().do_detach(volume_id)


@mutant("detach does nothing", "test_attaching_twice_gives_the_same_device")
class DetachNothing(Disks):
    def do_detach(self, volume_id):
        self.own(volume_id)


@mutant("an attached volume is said to be detached", "test_attaching_twice_gives_the_same_device")
class NeverAttached(Disks):
    def do_attached(self, volume_id):
        self.own(volume_id)


@mutant("a detached volume is said to be attached", "test_attaching_twice_gives_the_same_device")
class AlwaysAttached(Disks):
    def do_attached(self, volume_id):
        record = self.find_record(self.own(volume_id))
        return super().do_attached(volume_id) if not record else self.do_attach(volume_id)


@mutant("delete takes a device that is held", "test_a_held_device_stays")
class DeleteHeld(Disks):
    def do_delete(self, volume_id):
        self.__dict__["deleting"] = True
        try:
            super().do_delete(volume_id)
        finally:
            self.__dict__["deleting"] = False

    def require_unheld(self, name, disk):
        if not self.__dict__.get("deleting"):
            super().require_unheld(name, disk)

    def wipe(self, disk):
        with contextlib.suppress(VolumeInUse):
            super().wipe(disk)


@mutant("every device is called blank", "test_written_bytes_are_never_called_blank")
class AlwaysBlank(Disks):
    def do_is_blank(self, volume_id):
        return True


@mutant("every device is given as a blank one", "test_attach_tells_the_truth")
class GivenAsBlank(Disks):
    def do_attach(self, volume_id, *context):
        return replace(super().do_attach(volume_id, *context), blank=True)


@mutant("attach gives the volume as it was when it was made", "test_attach_tells_the_truth")
class GivenAsItWas(Disks):
    def do_attach(self, volume_id, *context):
        volume = replace(self.do_get(volume_id), facts=Facts())
        return replace(super().do_attach(volume_id, *context), volume=volume)


@mutant("no device is called blank", "test_a_new_device_is_blank")
class NeverBlank(Disks):
    def do_is_blank(self, volume_id):
        return False


@mutant("errors are raw OSErrors", "test_errors_are_those_of_katacsi")
class RawErrors(Disks):
    def do_attach(self, volume_id, *context):
        self.disk(self.ready(self.own(volume_id))).stat()
        return super().do_attach(volume_id, *context)


@mutant("only exclusive holders are seen", "test_a_device_that_a_guest_has_stays")
class ExclusiveOnly(Disks):
    def require_unheld(self, name, disk):
        try:
            os.close(os.open(disk, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            raise VolumeInUse(f"volume {name}: {disk} is in use") from error


@mutant(
    "the flag of a read-only publish is left on the device", "test_a_device_left_read_only_is_made_writable"
)
class ReadOnlyForEver(Disks):
    def do_attach(self, volume_id, *_):
        name = self.own(volume_id)
        record = self.ready(name)
        self.write(name, {**record, "attached": True})
        return self.device(record)

    def wipe(self, disk):
        self.zero(disk, 0, self.size(disk))


@mutant("a volume whose disk is gone is called absent", "test_a_volume_without_its_disk_is_not_absent")
class AbsentWithoutDisk(Disks):
    def look(self, name):
        record = self.find_record(name)
        return super().look(name) if record and self.disk(record).exists() else None


@mutant("a device that is gone is given out", "test_a_vanished_disk_is_not_given_out")
class VanishedGivenOut(Disks):
    def size(self, disk):
        return super().size(disk) if disk.exists() else 16 * MIB

    def do_attach(self, volume_id, *_):
        name = self.own(volume_id)
        record = self.ready(name)
        if self.disk(record).exists():
            return super().do_attach(volume_id)
        self.write(name, {**record, "attached": True})
        return self.device(record)


@mutant("disks are remembered by the kernel's names", "test_disks_are_known_by_identity")
class KernelNames(Disks):
    def identity(self, link):
        return str(link.resolve())


@mutant("a loop device is left at each attach", "test_attaching_leaves_no_device_behind")
class LoopLeak(Disks):
    def do_attach(self, volume_id, *_):
        with tempfile.NamedTemporaryFile(dir=self.disks.parent, suffix=".leak", delete=False) as file:
            file.truncate(MIB)
        loop.attach(Path(file.name), direct_io=False)
        return super().do_attach(volume_id)


@mutant("a descriptor is left at each attach", "test_attaching_leaves_no_descriptor_behind")
class DescriptorLeak(Disks):
    def do_attach(self, volume_id, *_):
        device = super().do_attach(volume_id)
        os.dup(os.open("/dev/null", os.O_RDONLY))
        return device
