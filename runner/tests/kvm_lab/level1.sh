#!/bin/sh
# Level 1: loads KVM, runs the cases, writes /out to its disk, powers off.
B=/bin/busybox
# passt goes into a root of its own, which nobody can do from an initramfs: the same files as a mount on top of it.
if [ "$1" != mounted ]; then
    $B mkdir -p /new
    $B mount -o bind / /new
    cd /new && $B mount -o move . / && exec $B chroot . $B sh /init mounted
fi
$B mkdir -p /proc /sys /dev /tmp /out
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
$B mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
$B mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
for m in /mod/*.ko; do $B insmod "$m"; done
while read -r name seconds; do
    echo "CASE-BEGIN $name"
    # stdin belongs to the list of cases.
    $B timeout "$seconds" "/cases/$name" </dev/null
    echo "CASE-END $name $?"
done </cases.txt
$B tar -c -f /dev/vda -C /out .
$B sync
$B poweroff -f
