#!/bin/busybox sh
# The first process of the guest that tools/guest.py boots; the initrd that holds it is the guest's whole root.
# guest_shares= on the kernel's command line names the folders of the host to mount, with commas between.
#
# It loads the modules, mounts the shares, and then runs what comes over the two virtio-serial ports: commands of
# the caller over one; the machine's own questions over the other, so that a long command holds up no hot-plug.
export PATH=/bin HOME=/tmp LANG=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
ln -s /proc/self/fd /dev/fd
ln -s /proc/mounts /etc/mtab
while read -r module; do
    insmod "/lib/modules/$module.ko" || echo "guest: the module $module cannot be loaded"
done </lib/modules/order

for tag in $(echo "$guest_shares" | tr , ' '); do
    mkdir -p "/run/shares/$tag"
    mount -t virtiofs "$tag" "/run/shares/$tag" || echo "guest: the share $tag cannot be mounted"
done

# A request is a line: its number, seconds, and the command in base64. The answer: a line with the number, the
# exit code and the output's size, then the output.
serve() {
    device=
    until [ "$device" ]; do
        for port in /sys/class/virtio-ports/*; do
            [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && device=/dev/${port##*/}
        done
        [ "$device" ] || sleep 0.05
    done
    exec 3<>"$device"
    while read -r number seconds command <&3; do
        script=/run/$1.$number.command output=/run/$1.$number.output
        echo "$command" | base64 -d >"$script"
        timeout -s KILL "$seconds" sh "$script" </dev/null >"$output" 2>&1 3>&-
        code=$?
        # Something in the background may still be writing: what is promised is what is sent.
        size=$(stat -c %s "$output")
        { echo "$number $code $size"; head -c "$size" "$output"; } >&3
        rm "$script" "$output"
    done
}

# A caller who needs another first process writes it to /run/init and sends this signal. The kernel's own helpers
# (modprobe) have the root of the first process, and no other's.
trap 'exec sh /run/init' USR1
serve run &
serve machine &
# Also the end of everybody who has no parent any more.
while :; do wait; sleep 1; done
