#!/usr/bin/env bash
# Three members on this machine, as a Procfile would start them.
#
#   xtask/cluster.sh start     (through `make cluster`, which builds first)
#   xtask/cluster.sh stop      ends them; their data stays, and the next start continues with it
#
#   METASTORE_BIN  the server
#   CLUSTER_DIR    the directory of data, logs and process ids (default: ./cluster)
#   ENGINE         memory or rocksdb (default: memory)
set -euo pipefail
directory=${CLUSTER_DIR:-cluster}
members=(m1 m2 m3)
client_ports=(2379 22379 32379)
peer_ports=(2380 22380 32380)

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

alive() { [[ -f $directory/$1.pid ]] && kill -0 "$(<"$directory/$1.pid")" 2>/dev/null; }

# Waits until a condition holds; fails with the name of the condition if it does not hold in time.
wait_until() { # name of the condition, seconds, command...
    local what=$1 deadline=$((SECONDS + $2))
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what: not within the time"
        read -rt 0.05 <> <(:) || true
    done
}

healthy() {
    alive "$1" || fail "$1 has ended: $(tail -n 1 "$directory/$1.log")"
    curl -sf "http://127.0.0.1:$2/health" >/dev/null
}

gone() { ! alive "$1"; }

start() {
    local binary=${METASTORE_BIN:?the server to start} all='' at
    mkdir -p "$directory"
    for at in 0 1 2; do all+="${members[at]}=http://127.0.0.1:${peer_ports[at]},"; done
    for at in 0 1 2; do
        alive "${members[at]}" && continue
        local client=http://127.0.0.1:${client_ports[at]} peer=http://127.0.0.1:${peer_ports[at]}
        setsid "$binary" --name "${members[at]}" --data-dir "$directory/${members[at]}" --engine "${ENGINE:-memory}" \
            --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "${all%,}" \
            >>"$directory/${members[at]}.log" 2>&1 </dev/null &
        echo $! >"$directory/${members[at]}.pid"
    done
    for at in 0 1 2; do wait_until "${members[at]}" 30 healthy "${members[at]}" "${client_ports[at]}"; done
    echo "three members serve; logs and data are in $directory; end them with: make cluster-stop"
    echo "etcdctl --endpoints 127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 member list"
}

stop() {
    local member
    for member in "${members[@]}"; do
        if alive "$member"; then
            kill "$(<"$directory/$member.pid")"
            wait_until "$member" 10 gone "$member"
        fi
        rm -f "$directory/$member.pid"
    done
}

case ${1:-} in
start) start ;;
stop) stop ;;
*) fail "start or stop" ;;
esac
