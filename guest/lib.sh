# Shared by the first programs of the initramfs (guest/init) and of disk images (guest/image/init).
# Wants busybox's programs in PATH, /proc and /sys mounted.

# The value of KEY=VALUE in the kernel command line, or nothing. Values in quotes may have spaces.
cmdline() {
    sed -n -e "s/.*\(^\| \)$1=\"\([^\"]*\)\".*/\2/p" -e t -e "s/.*\(^\| \)$1=\([^ ]*\).*/\2/p" /proc/cmdline
}

cpus() { grep -c '^processor' /proc/cpuinfo; }
megabytes() { echo $(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024)); }

# Drivers that Debian's kernels have as modules, in the order in which they need each other. What a kernel
# has built in has no file.
load_modules() {
    for module in virtio virtio_ring failover net_failover virtio_net virtio_blk virtio_mmio virtio-rng; do
        file=/lib/modules/$(uname -r)/$module.ko
        [ ! -e "$file" ] || grep -q "^$(echo $module | tr - _) " /proc/modules || insmod "$file"
    done
}

# Every network interface: the fixed address that the command line gives it
# (ip=ADDRESS::GATEWAY:MASK:HOST:INTERFACE:off, once for each interface), else what DHCP says.
# $1 is udhcpc's script.
network_up() {
    ip link set lo up
    for word in $(cat /proc/cmdline); do
        case $word in ip=*:*:*:*:*:*) static_address "${word#ip=}" ;; esac
    done
    for path in /sys/class/net/eth*; do
        [ -e "$path" ] || continue
        interface=${path##*/}
        ip -4 addr show dev "$interface" | grep -q inet ||
            udhcpc -q -b -t 3 -T 1 -i "$interface" -s "$1" >/dev/null 2>&1
    done
}

static_address() {
    old_ifs=$IFS IFS=:
    # Fields may be empty: the colon parts them, it does not just stand between words.
    set -- $1
    IFS=$old_ifs
    address=$1 gateway=$3 mask=$4 host=$5 interface=$6
    [ -z "$host" ] || hostname "$host"
    ifconfig "${interface:-eth0}" "$address" netmask "$mask" up || return
    [ -z "$gateway" ] || route add default gw "$gateway" dev "${interface:-eth0}"
}

# The IPv4 addresses, "eth0 10.0.2.15/24" and so on, parted by commas; "no network" if there are none.
addresses() {
    found=$(ip -4 -o addr show | sed -n 's/^[0-9]*: *\(eth[0-9]*\) *inet \([^ ]*\).*/\1 \2/p' | tr '\n' ',')
    echo "${found:-no network}" | sed -e 's/,$//' -e 's/,/, /g'
}

# Waits until the console has sent everything (stty sets with TCSADRAIN): power-off does not.
drain() { stty -F /dev/console -ixany; stty -F /dev/console ixany; }
