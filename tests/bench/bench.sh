#!/usr/bin/env bash
# Measures MetaStore, with each storage engine, and a real etcd on the same machine: the same flags, every acknowledged
# write on disk, the three servers in turn (A-B-C-A-B-C), medians of all rounds. Read the ratios: absolute numbers
# depend on the other load of the machine.
#
#   tests/bench/bench.sh
#
#   METASTORE_BIN  the subject        (default: target/release/metastore, built if it is not there)
#   ETCD_BIN       the reference      (default: the newest etcd, by tests/etcd/install.sh)
#   ROUNDS         rounds             (default 5)
#   REQUESTS       requests per round with 1024 in flight (default 40000); a twentieth of them one at a time, and ten or
#                  twenty times as many renewals of leases
#   KEYS           distinct keys      (default 1000000)
#   BENCH_DIR      directory of all data (default: the temporary directory); must be on a disk, not a tmpfs
#
# Columns: requests per second, p50 and p99 in ms, requests per second of the server's processor time, bytes written to
# disk per request, resident memory in MB. The lines with an x are ratios to etcd.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rounds=${ROUNDS:-5}
requests=${REQUESTS:-40000}
keys=${KEYS:-1000000}
sides=(memory rocksdb etcd)
source "$here/servers.sh"
need_h2load

# Prints the same as run_h2load.
run_loadgen() { # address, operation, connections, streams, requests, zipf, round
    "$loadgen" "$1" "$2" connections="$3" streams="$4" requests="$5" keys="$keys" zipf="$6" seed="$7"
}

measure() { # title, tool, operation, connections, streams, requests [zipf]
    local round side before_cpu before_disk ticks bytes rate p50 p99
    ticks_per_second=$(getconf CLK_TCK)
    for side in "${sides[@]}"; do : >"$work/$side.rounds"; done
    for ((round = 0; round < rounds; round++)); do
        for side in "${sides[@]}"; do
            before_cpu=$(cpu_ticks "${pid[$side]}")
            before_disk=$(disk_bytes "${pid[$side]}")
            read -r rate p50 p99 _ < <("run_$2" "${address[$side]}" "$3" "$4" "$5" "$6" "${7:-0}" "$round") ||
                fail "$1: no result from $2 against the $side"
            ticks=$(($(cpu_ticks "${pid[$side]}") - before_cpu))
            bytes=$(($(disk_bytes "${pid[$side]}") - before_disk))
            awk -v rate="$rate" -v p50="$p50" -v p99="$p99" -v n="$6" -v ticks="$ticks" -v hz="$ticks_per_second" \
                -v bytes="$bytes" -v rss="$(memory_kb "${pid[$side]}" VmRSS)" \
                'BEGIN { cpu = ticks > 0 ? n / (ticks / hz) : 0
                         printf "%d %.3f %.3f %d %d %d\n", rate, p50 / 1000, p99 / 1000, cpu, bytes / n, rss / 1024 }' \
                >>"$work/$side.rounds"
        done
    done
    local column
    for side in "${sides[@]}"; do
        for column in 1 2 3 4 5 6; do cut -d ' ' -f $column "$work/$side.rounds" | median; done |
            paste -sd ' ' >"$work/$side.median"
    done
    printf '%s\n' "$1"
    for side in "${sides[@]}"; do
        printf '  %-10s %10s req/s   p50 %8s ms   p99 %8s ms   %9s req/cpu-s   %7s B/req   %5s MB\n' \
            "$side" $(<"$work/$side.median")
    done
    for side in memory rocksdb; do
        paste -d ' ' "$work/$side.median" "$work/etcd.median" | awk -v side="$side" '
            function ratio(a, b) { return b > 0 ? sprintf("%.2f", a / b) : "-" }
            { printf "  %-10s %10s x           %8s          %8s      %9s             %7s         %5s\n", side,
              ratio($1, $7), ratio($2, $8), ratio($3, $9), ratio($4, $10), ratio($5, $11), ratio($6, $12) }'
    done
}

for operation in put txn range; do "$loadgen" body $operation >"$work/$operation.body"; done
port=$((25000 + RANDOM % 800 * 2))
start memory $port "$subject" --engine memory
start rocksdb $((port + 2000)) "$subject" --engine rocksdb
start etcd $((port + 4000)) "$reference"
echo "MetaStore: $subject"
echo "etcd:      $reference ($("$reference" --version | head -n 1))"
echo "$(nproc) processors, $rounds rounds, medians, fsync on, key 51 B, value 256 B"

few=$((requests / 20))
# Warms up, and writes the key that is read.
for side in "${sides[@]}"; do run_h2load "${address[$side]}" put 8 8 2000 >/dev/null; done
measure "Put, one hot key, 64 connections x 16 in flight" h2load put 64 16 "$requests"
measure "Txn (mod compare, put), one hot key, 64 x 16" h2load txn 64 16 "$requests"
measure "Range of one key, linearizable, 64 x 16" h2load range 64 16 "$requests"
measure "Put, one client, one at a time" h2load put 1 1 "$few"
measure "Put, $keys keys, random, 64 x 16" loadgen put 64 16 "$requests" 0
measure "Put, $keys keys, zipf, 64 x 16" loadgen put 64 16 "$requests" 1
measure "Txn, $keys keys, random, 64 x 16" loadgen txn 64 16 "$requests" 0
measure "Range, $keys keys, zipf, linearizable, 64 x 16" loadgen range 64 16 "$requests" 1
measure "Lease renewals, 1000 leases on one stream" loadgen renew 1 1 "$((requests * 10))"
measure "Lease renewals, 1000 leases on each of 8 streams, 8 connections" loadgen renew 8 1 "$((requests * 20))"
