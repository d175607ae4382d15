#!/bin/busybox sh
# Run in the guest that tools/lab_qemu.py boots, whose root is an initrd. The folders of the host are shares.
#
# It lays the unpacked tools and a RAM disk over the host's root and makes that the root; tools/lab_inside.sh does
# the rest, as the first process.
set -eu

shares=/run/shares
mkdir -p /run/lab/upper /run/lab/work /run/lab/root
mount -t tmpfs -o mode=755,size=75% lab /run/lab
mkdir /run/lab/upper /run/lab/work /run/lab/root
mount -t overlay -o lowerdir=$shares/packages:$shares/root,upperdir=/run/lab/upper,workdir=/run/lab/work lab /run/lab/root

cd /run/lab/root
mount -t tmpfs -o mode=755 run run
mkdir -p run/lab dev proc
mount --bind $shares/lab run/lab
mount -t devtmpfs dev dev
mount -t proc proc proc
number=0
while IFS= read -r folder; do
    mkdir -p "./$folder"
    mount --bind "$shares/shared$number" "./$folder"
    number=$((number + 1))
done <run/lab/shared

# The first process goes on in the new root, as with switch_root; what serves the ports keeps the old one.
cat >/run/init <<'END'
cd /run/lab/root
mount --move . /
exec chroot . /bin/bash /run/lab/inside </dev/null >/dev/console 2>&1
END
kill -USR1 1
