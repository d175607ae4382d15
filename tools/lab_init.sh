#!/bin/bash
# The first process of the lab's machine; tools/lab.py boots it with the root of the host, read-only.
# lab= on the kernel's command line names the run's folder on the host: what to run goes in, the status comes out.
#
# It lays the unpacked packages and a RAM disk over the host's root, makes that the root, mounts what a machine
# has mounted, starts udev if it is to, runs the command and powers off. Nothing it does can reach the host, but
# for the run's folder and the folders to share.
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
kernel=$(uname -r)
modules=/run/packages/usr/lib/uml/modules/$kernel
[ -d "$modules" ] || modules=/usr/lib/uml/modules/$kernel
insmod=/run/packages/usr/bin/kmod
[ -x $insmod ] || insmod=/usr/bin/kmod
export LD_LIBRARY_PATH=$(echo /run/packages/usr/lib/*-linux-gnu)
(exec -a insmod $insmod "$modules/kernel/fs/overlayfs/overlay.ko") || die "the module overlay cannot be loaded"
unset LD_LIBRARY_PATH
# Two mounts of hostfs: the overlay refuses layers of one filesystem that lie within each other.
mount -t overlay -o lowerdir=/run/packages:/,upperdir=/run/upper,workdir=/run/work lab /run/root || die "no root"

cd /run/root || die "no root"
mount -t tmpfs -o mode=755 run run
mkdir -p run/lock run/lab run/host dev proc sys tmp var/tmp
mount --move /run/lab run/lab
mount --move /dev dev
pivot_root . run/host || die "pivot_root failed"
cd / || die "no root"
mount -t proc proc /proc
mount -t sysfs sys /sys
umount -l /run/host
rmdir /run/host

mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
ln -sfn /proc/self/fd /dev/fd
mkdir -p /lib/modules
ln -sfn "/usr/lib/uml/modules/$kernel" "/lib/modules/$kernel"
echo lab >/proc/sys/kernel/hostname
ip link set lo up
modprobe -a loop dm-mod

# No dmeventd: nothing here should act on a pool behind a test's back.
mkdir -p /etc/lvm
echo 'activation { monitoring = 0 }' >/etc/lvm/lvmlocal.conf

# Without udev lvcreate waits for device nodes in vain, unless DM_DISABLE_UDEV tells it to make them itself.
if [ -n "$LAB_UDEV" ]; then
    /lib/systemd/systemd-udevd --daemon
    udevadm trigger --type=subsystems --action=add
    udevadm trigger --type=devices --action=add --subsystem-match=block
    udevadm settle --timeout=20
fi

for folder in "${LAB_SHARED[@]}"; do
    mkdir -p "$folder"
    mount -t hostfs -o "$folder" none "$folder" || die "cannot share $folder"
done

cd "$LAB_FOLDER" || die "no folder $LAB_FOLDER"
# The second console is the command's alone; the kernel writes to the first. Through a pipe, because programs take
# a console for a person's terminal.
stty -F /dev/tty1 raw
exec 3> >(exec cat >/dev/tty1)
cat=$!
# Also here, so that the machine ends when nobody is left on the host to end it.
env -i "${LAB_ENVIRONMENT[@]}" timeout --kill-after=10 "$LAB_TIMEOUT" "${LAB_COMMAND[@]}" </dev/null >&3 2>&3 3>&-
status=$?
exec 3>&-
for _ in {1..20}; do [ -e /proc/$cat ] || break; sleep 0.05; done  # a daemon may still hold the pipe
stty -F /dev/tty1 raw  # returns when all is written

echo "$status" >/run/lab/status
sync
echo o >/proc/sysrq-trigger
sleep 60
