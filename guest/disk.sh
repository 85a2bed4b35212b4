# Steps of cloister.test= that work on the first disk (guest/README.md).

disk=/dev/vda

# Text that is different for each $1, some 2 MB.
numbers() { seq "$(($1 + 1))000000" "$(($1 + 1))249999"; }

# The page cache knows nothing of the disk any more.
forget() { sync && echo 3 >/proc/sys/vm/drop_caches; }

# Four writers at once, each to 4 MiB of its own; what they wrote is on the disk and is read back.
disk_verify() {
    for n in 0 1 2 3; do
        numbers $n | dd of=$disk bs=64k seek=$((64 * n)) conv=notrunc,fsync 2>/dev/null &
    done
    wait
    forget
    for n in 0 1 2 3; do
        numbers $n >/tmp/want
        dd if=$disk bs=64k skip=$((64 * n)) count=64 2>/dev/null | head -c "$(wc -c </tmp/want)" | cmp - /tmp/want ||
            echo "guest: disk range $n differs"
    done
    echo "guest: disk verified, $(cat /sys/block/${disk##*/}/size) sectors, serial $(cat /sys/block/${disk##*/}/serial)"
}

# Looks at every file that is on the ext4 disk, then writes files for ever; of each that is told it is on the disk.
disk_churn() {
    mkdir -p /mnt
    mount -t ext4 $disk /mnt || { echo "guest: churn cannot mount"; return; }
    mkdir -p /mnt/files
    cd /mnt/files
    newest=0
    for file in *; do
        [ "$file" != "*" ] || break
        case $file in *.new) rm "$file"; continue ;; esac
        [ "$(head -n 1 "$file")" = "$(tail -n +2 "$file" | sha1sum)" ] || echo "guest: churn damaged $file"
        [ "$file" -le $newest ] || newest=$file
    done
    # The boot's own name: a console's replay has lines of earlier ones.
    echo "guest: churn $(cat /proc/sys/kernel/random/boot_id) found $newest"
    while :; do
        newest=$((newest + 1))
        numbers $((newest % 8)) | head -c $(((newest * 7919) % 300000 + 1)) >/tmp/content
        { sha1sum </tmp/content; cat /tmp/content; } >$newest.new
        mv $newest.new $newest
        sync
        echo "guest: churn wrote $newest"
        [ $newest -le 20 ] || rm -f $((newest - 20))
    done
}

# Reads and writes, past the page cache, until something goes wrong; and on, until nothing does.
disk_errors() {
    until [ "$(cat /tmp/wrong 2>/dev/null)" ]; do
        echo "guest: disk works"
        sleep 0.2
        dd if=$disk of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || echo read >>/tmp/wrong
        dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct 2>/dev/null || echo write >>/tmp/wrong
    done
    echo "guest: disk failed: $(tr '\n' ' ' </tmp/wrong)"
    until dd if=/dev/zero of=$disk bs=4k count=16 oflag=direct 2>/dev/null; do sleep 0.2; done
    echo "guest: disk works again"
}
