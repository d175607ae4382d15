#!/bin/bash
# The first process of a machine of user-mode Linux; tools/lab_uml.py boots it with the root of the host, read-only.
# lab= on the kernel's command line names the run's folder on the host: what to run goes in, the status comes out.
#
# It lays the unpacked tools and a RAM disk over the host's root and makes that the root; tools/lab_inside.sh does
# the rest.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

die() { echo "lab: $*" >&2; sync; echo o >/proc/sysrq-trigger; sleep 60; }

mount -t proc proc /proc
mount -t tmpfs -o mode=755,size=75% lab /run
mkdir /run/{lab,packages,upper,work,root}
mount -t hostfs -o "$lab" none /run/lab
. /run/lab/settings
mount -t hostfs -o "$LAB_TREE" none /run/packages

# kmod and its library may be among the unpacked packages, whose links are not in force yet.
insmod=/run/packages/usr/bin/kmod
[ -x $insmod ] || insmod=/usr/bin/kmod
export LD_LIBRARY_PATH=$(echo /run/packages/usr/lib/*-linux-gnu)
overlay=$LAB_MODULES/$(uname -r)/kernel/fs/overlayfs/overlay.ko
(exec -a insmod $insmod "$overlay") || die "the module overlay cannot be loaded"
unset LD_LIBRARY_PATH
# Two mounts of hostfs: the overlay refuses layers of one filesystem that lie within each other.
mount -t overlay -o lowerdir=/run/packages:/,upperdir=/run/upper,workdir=/run/work lab /run/root || die "no root"

cd /run/root || die "no root"
mount -t tmpfs -o mode=755 run run
mkdir -p run/lab run/host dev proc
mount --move /run/lab run/lab
mount --move /dev dev
pivot_root . run/host || die "pivot_root failed"
cd / || die "no root"
mount -t proc proc /proc
umount -l /run/host
rmdir /run/host

for folder in "${LAB_SHARED[@]}"; do
    mkdir -p "$folder"
    mount -t hostfs -o "$folder" none "$folder" || die "cannot share $folder"
done
. /run/lab/inside
