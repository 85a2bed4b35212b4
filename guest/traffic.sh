# Network traffic for tests: the steps serve, ping, fetch and load of guest/init (guest/README.md).

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
