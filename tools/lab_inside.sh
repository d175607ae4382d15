#!/bin/bash
# The rest of the start of a lab's machine, whatever its engine: the root is laid already, /dev and /proc are there,
# and /run/lab is the run's folder on the host.
#
# It mounts what a machine has mounted, starts udev if it is to, runs the command and powers off. Nothing it does
# can reach the host, but for the run's folder and the folders to share.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

die() { echo "lab: $*" >&2; sync; echo o >/proc/sysrq-trigger; sleep 60; }

. /run/lab/settings

mkdir -p /run/lock /sys /tmp /var/tmp
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
ln -sfn /proc/self/fd /dev/fd
mkdir -p /lib/modules
kernel=$(uname -r)
ln -sfn "$LAB_MODULES/$kernel" "/lib/modules/$kernel"
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

cd "$LAB_FOLDER" || die "no folder $LAB_FOLDER"
if [ -c "$LAB_OUTPUT" ]; then
    # A console, and the command's alone. Through a pipe, because programs take one for a person's terminal.
    stty -F "$LAB_OUTPUT" raw
    exec 3> >(exec cat >"$LAB_OUTPUT")
    cat=$!
else
    exec 3>>"$LAB_OUTPUT"
    cat=
fi
# Also here, so that the machine ends when nobody is left on the host to end it.
env -i "${LAB_ENVIRONMENT[@]}" timeout --kill-after=10 "$LAB_TIMEOUT" "${LAB_COMMAND[@]}" </dev/null >&3 2>&3 3>&-
status=$?
exec 3>&-
if [ -n "$cat" ]; then
    for _ in {1..20}; do [ -e "/proc/$cat" ] || break; sleep 0.05; done  # a daemon may still hold the pipe
    stty -F "$LAB_OUTPUT" raw  # returns when all is written
fi

echo "$status" >/run/lab/status
sync
echo o >/proc/sysrq-trigger
sleep 60
