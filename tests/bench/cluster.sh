#!/usr/bin/env bash
# Measures three members of MetaStore, with each storage engine, and three of a real etcd on the same machine: the same
# flags, every acknowledged write on disk at a quorum, the three clusters in turn, medians of all rounds. All nine
# members run at once; the members that are not measured send only heartbeats. Read the ratios.
#
#   tests/bench/cluster.sh        with the variables of bench.sh
#
# Columns: requests per second, p50 and p99 in ms, requests per second of all three members' processor time, resident
# memory of the three in MB. The lines with an x are ratios to etcd.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rounds=${ROUNDS:-5}
requests=${REQUESTS:-40000}
sides=(memory rocksdb etcd)
source "$here/servers.sh"
need_h2load

declare -A leader follower members
trap 'kill ${members[@]} 2>/dev/null || true; rm -rf "$work"' EXIT

start_three() { # side, first port, binary, flags...
    local side=$1 port=$2 binary=$3 all='' at
    shift 3
    for at in 0 1 2; do all+="m$at=http://127.0.0.1:$((port + 2 * at + 1)),"; done
    members[$side]=''
    for at in 0 1 2; do
        local client=http://127.0.0.1:$((port + 2 * at)) peer=http://127.0.0.1:$((port + 2 * at + 1))
        "$binary" --name "m$at" --data-dir "$work/$side.$at" \
            --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
            --initial-cluster "${all%,}" --log-level warn "$@" \
            >"$work/$side.$at.log" 2>&1 &
        members[$side]+=" $!"
    done
    local deadline=$((SECONDS + 60))
    for at in 0 1 2; do
        until curl -sf "http://127.0.0.1:$((port + 2 * at))/health" >/dev/null; do
            ((SECONDS < deadline)) || fail "$binary does not form a cluster: $(tail -n 3 "$work/$side.$at.log")"
            read -rt 0.05 <> <(:) || true
        done
    done
    for at in 0 1 2; do
        if [[ $(curl -sf "http://127.0.0.1:$((port + 2 * at))/metrics" | sed -n 's/^etcd_server_is_leader //p') == 1 ]]; then
            leader[$side]=127.0.0.1:$((port + 2 * at))
        else
            follower[$side]=127.0.0.1:$((port + 2 * at))
        fi
    done
    [[ -n ${leader[$side]:-} ]] || fail "no member of $side says that it leads"
}

cluster_ticks() {
    local ticks=0 one
    for one in ${members[$1]}; do ticks=$((ticks + $(cpu_ticks "$one"))); done
    echo "$ticks"
}
cluster_kb() { local kb=0 one; for one in ${members[$1]}; do kb=$((kb + $(memory_kb "$one" VmRSS))); done; echo "$kb"; }

run() { # address, operation, connections, streams, requests
    case $2 in
    renew) "$loadgen" "$1" renew connections="$3" streams="$4" requests="$5" ;;
    *) run_h2load "$@" ;;
    esac
}

measure() { # title, leader or follower, operation, connections, streams, requests
    local round side before ticks rate p50 p99 column
    local -n where=$2
    for side in "${sides[@]}"; do : >"$work/$side.rounds"; done
    for ((round = 0; round < rounds; round++)); do
        for side in "${sides[@]}"; do
            before=$(cluster_ticks "$side")
            read -r rate p50 p99 _ < <(run "${where[$side]}" "${@:3:4}") || fail "$1: no result from the $side"
            ticks=$(($(cluster_ticks "$side") - before))
            awk -v rate="$rate" -v p50="$p50" -v p99="$p99" -v n="$6" -v ticks="$ticks" -v hz="$(getconf CLK_TCK)" \
                -v rss="$(cluster_kb "$side")" 'BEGIN { cpu = ticks > 0 ? n / (ticks / hz) : 0
                    printf "%d %.3f %.3f %d %d\n", rate, p50 / 1000, p99 / 1000, cpu, rss / 1024 }' \
                >>"$work/$side.rounds"
        done
    done
    for side in "${sides[@]}"; do
        for column in 1 2 3 4 5; do cut -d ' ' -f $column "$work/$side.rounds" | median; done |
            paste -sd ' ' >"$work/$side.median"
    done
    printf '%s\n' "$1"
    for side in "${sides[@]}"; do
        printf '  %-10s %10s req/s   p50 %8s ms   p99 %8s ms   %9s req/cpu-s   %5s MB\n' \
            "$side" $(<"$work/$side.median")
    done
    for side in memory rocksdb; do
        paste -d ' ' "$work/$side.median" "$work/etcd.median" | awk -v side="$side" '
            function ratio(a, b) { return b > 0 ? sprintf("%.2f", a / b) : "-" }
            { printf "  %-10s %10s x           %8s          %8s      %9s             %5s\n", side,
              ratio($1, $6), ratio($2, $7), ratio($3, $8), ratio($4, $9), ratio($5, $10) }'
    done
}

for operation in put txn range; do "$loadgen" body $operation >"$work/$operation.body"; done
port=$((26000 + RANDOM % 500 * 6))
start_three memory $port "$subject" --engine memory
start_three rocksdb $((port + 10)) "$subject" --engine rocksdb
start_three etcd $((port + 20)) "$reference"
echo "MetaStore: $subject"
echo "etcd:      $reference ($("$reference" --version | head -n 1))"
echo "$(nproc) processors, three members, $rounds rounds, medians, fsync on, key 51 B, value 256 B"

few=$((requests / 20))
# Warms up, and writes the key that is read.
for side in "${sides[@]}"; do run_h2load "${leader[$side]}" put 8 8 2000 >/dev/null; done
measure "Put through the leader, 64 connections x 16 in flight" leader put 64 16 "$requests"
measure "Put through a follower, 64 x 16" follower put 64 16 "$requests"
measure "Txn (mod compare, put) through the leader, 64 x 16" leader txn 64 16 "$requests"
measure "Range of one key, linearizable, at the leader, 64 x 16" leader range 64 16 "$requests"
measure "Range of one key, linearizable, at a follower, 64 x 16" follower range 64 16 "$requests"
measure "Put through the leader, one at a time" leader put 1 1 "$few"
for at in leader follower; do
    measure "Lease renewals at a $at, 1000 leases on one stream" $at renew 1 1 "$((requests * 10))"
    measure "Lease renewals at a $at, 1000 leases on each of 8 streams, 8 connections" \
        $at renew 8 1 "$((requests * 20))"
done
