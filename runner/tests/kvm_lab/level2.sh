#!/bin/sh
# Level 2: what the guest does is named on its command line.
B=/bin/busybox
$B mkdir -p /proc /sys /dev /mnt
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
echo "L2-UP $($B cut -d' ' -f1 /proc/uptime)"
action=$($B sed 's/.*action=\([a-z]*\).*/\1/' /proc/cmdline)
modules() { for m in /mod/*.ko; do $B insmod "$m"; done; }
topology() {
    for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
        echo "L2-TOPOLOGY $($B cat $cpu/topology/physical_package_id $cpu/topology/core_id $cpu/topology/thread_siblings_list | $B tr '\n' ' ')"
    done
}
case $action in
boot)
    echo "L2-CPUS $($B grep -c ^processor /proc/cpuinfo)"
    echo "L2-CLOCK $($B cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    topology
    echo "L2-MEMORY $($B awk '/MemTotal/ {print $2}' /proc/meminfo)"
    ;;
bench)
    # Rests, so that whoever measures can look at the monitor.
    $B sleep 1
    if [ -x /bin/vmm ]; then
        modules
        for threads in 1 4; do /bin/vmm randread /dev/vda 4 $threads; done
    fi
    ;;
root)
    modules
    $B mount -t ext4 /dev/vda /mnt
    echo "L2-MESSAGES $($B grep -c 'PCI-MSI.*virtio' /proc/interrupts)"
    exec $B switch_root /mnt /sbin/init
    ;;
serial)
    $B stty -F /dev/ttyS1 raw -echo
    exec 3<>/dev/ttyS1
    printf 'READY\n' >&3
    $B head -c 300 <&3 >&3
    ;;
net)
    modules
    $B ip link set eth0 up; $B ip addr add 10.9.0.2/24 dev eth0
    $B ping -c 3 -W 5 10.9.0.1 && echo L2-PING-OK
    $B ping -c 2 -s 1400 -W 5 10.9.0.1 && echo L2-PING-BIG-OK
    echo "L2-MESSAGES $($B grep -c 'PCI-MSI.*virtio' /proc/interrupts)"
    echo "L2-RNG $($B cat /sys/class/misc/hw_random/rng_current) $($B dd if=/dev/hwrng bs=64 count=4 2>/dev/null | $B wc -c)"
    ;;
passt)
    modules
    $B mkdir -p /tmp
    {
        echo '#!/bin/busybox sh'
        echo '[ "$1" = bound ] || exit 0'
        echo 'echo "L2-LEASE $ip $router"; /bin/busybox ip addr add "$ip/24" dev eth0; /bin/busybox ip route add default via "$router"'
    } >/tmp/lease
    $B chmod 755 /tmp/lease
    $B ip link set eth0 up
    $B udhcpc -i eth0 -n -q -t 5 -s /tmp/lease 2>/dev/null
    # The gateway's address means the host itself.
    echo "L2-FETCHED $($B wget -q -O - http://10.8.0.1:8080/page)"
    $B wget -q -O - http://10.8.0.1:8080/big | $B md5sum
    ;;
reset)
    modules
    sum() { $B dd if=/dev/vda bs=64k count=128 2>/dev/null | $B md5sum; }
    first=$(sum)
    device=$($B basename "$($B readlink -f /sys/block/vda/device)")
    for round in 1 2; do
        echo "$device" >/sys/bus/virtio/drivers/virtio_blk/unbind
        [ -e /dev/vda ] && echo "L2-STILL-THERE"
        echo "$device" >/sys/bus/virtio/drivers/virtio_blk/bind
        echo 3 >/proc/sys/vm/drop_caches
        [ "$(sum)" = "$first" ] && echo "L2-SAME-AFTER-RESET $round"
        echo "round $round" | $B dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null && echo "L2-WROTE $round"
    done
    ;;
button)
    modules
    topology
    # An old log on the console is no panic of this kernel.
    echo "[    1.000000] Kernel panic - not syncing: from another day"
    echo "L2-RNG $($B cat /sys/class/misc/hw_random/rng_current) $($B dd if=/dev/hwrng bs=64 count=4 2>/dev/null | $B wc -c)"
    before=$($B awk '/ACPI:Ged/ {print $2}' /proc/interrupts)
    echo "L2-WAITING"
    for i in $($B seq 100); do
        now=$($B awk '/ACPI:Ged/ {print $2}' /proc/interrupts)
        [ "$now" != "$before" ] && { echo "L2-BUTTON $before $now"; break; }
        $B usleep 200000
    done
    ;;
panic) echo c >/proc/sysrq-trigger ;;
reboot) $B reboot -f ;;
hang) while :; do :; done ;;
esac
$B sync
$B poweroff -f
