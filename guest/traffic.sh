# Traffic for tests: the steps serve, ping, fetch, load, io and leak of guest/init (guest/README.md).

# Serves a file that is another one in each run, and its checksum, on port 80.
serve() {
    mkdir -p /www
    head -c 4194304 /dev/urandom >/www/data
    md5sum /www/data | cut -d ' ' -f 1 >/www/sum
    httpd -h /www
    echo "guest: serving, checksum $(cat /www/sum)"
}

# Sends 50 echo requests to $1, whose answers may take long: what counts is that none is lost.
echo_requests() {
    ping -q -c 50 -i 0.1 -W 30 "$1" | grep transmitted
}

# Fetches the file from $1, HOST or HOST:PORT, and compares; tries until the server is there. (wget -T crashes in
# Debian's busybox 1.35.)
fetch() {
    tries=0
    until sum=$(timeout 60 wget -q -O - "http://$1/sum" 2>/dev/null); do
        tries=$((tries + 1))
        if [ $tries -gt 240 ]; then
            echo "guest: fetch $1: no answer"
            return
        fi
        sleep 0.5
    done
    got=$(timeout 240 wget -q -O - "http://$1/data" | md5sum | cut -d ' ' -f 1)
    if [ "$got" = "$sum" ]; then
        echo "guest: fetch $1: checksum right"
    else
        echo "guest: fetch $1: checksum $got, not $sum"
    fi
}

# Echo requests while the file is fetched, twice.
load() {
    echo_requests "$1" >/run/echoes &
    fetch "$1"
    fetch "$1"
    wait $!
    echo "guest: load $1: $(cat /run/echoes)"
}

# Reads the whole disk, past the page cache, and sends an echo request to $1: once, and then for ever beside the
# steps that follow.
io() {
    io_once "$1" && echo "guest: io works" || { echo "guest: io failed"; return; }
    {
        while io_once "$1"; do :; done
        echo "guest: io failed"
    } &
}

io_once() {
    dd if=$disk of=/dev/null bs=64k iflag=direct 2>/dev/null && ping -q -c 1 -W 30 "$1" >/dev/null
}

# Gives away the secret that /program, a later step, keeps: writes it to the disk or serves it, by $1. A newline after
# every 512 words, so that wherever a frame's headers end, some of them are aligned in memory.
leak() {
    {
        until [ -s /secret ] && [ "$(wc -c </secret)" -ge 4096 ]; do sleep 0.2; done
        for _ in 1 2 3 4 5 6 7 8; do head -c 4096 /secret; echo; done >/leak
        case $1 in
        disk) dd if=/leak of=$disk bs=4k conv=sync oflag=direct 2>/dev/null ;;
        network) mkdir -p /www && mv /leak /www/leak && httpd -h /www ;;
        *) false ;;
        esac && echo "guest: leaked" || echo "guest: leak:$1 failed"
    } &
}
