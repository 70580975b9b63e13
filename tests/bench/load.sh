#!/usr/bin/env bash
# Fills the rocksdb engine with more keys than memory would hold, and prints speed, memory and times of restarts; then
# it makes the same measurements with an etcd that holds fewer keys.
#
#   tests/bench/load.sh
#
#   METASTORE_BIN   the subject                       (default: target/release/metastore, built if it is not there)
#   ETCD_BIN        the reference                     (default: the newest etcd, by tests/etcd/install.sh)
#   KEYS            keys                              (default 10000000)
#   REFERENCE_KEYS  keys that the etcd gets           (default 1000000; 0: without etcd)
#   STEP            puts between two measurements     (default 500000)
#   LISTED          keys of a list                    (default 100000)
#   PAGE            keys of a page, which comes with the count of all keys (default 500)
#   FLAGS           more flags for the subject
#   BENCH_DIR       directory of all data             (default: the temporary directory); must be on a disk, not a tmpfs
#
# Keys have 64 bytes and are written in random order; values have 256 bytes and do not compress. There are 64
# connections with 16 puts in flight each; every acknowledged put is on disk.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
keys=${KEYS:-10000000}
reference_keys=${REFERENCE_KEYS:-1000000}
step=${STEP:-500000}
listed=${LISTED:-100000}
page=${PAGE:-500}
read -ra flags <<<"${FLAGS:-}"
source "$here/servers.sh"
port=$((25000 + RANDOM % 800 * 2))

fill() { # name, keys: prints the rate of each step
    local first count
    for ((first = 0; first < $2; first += step)); do
        count=$((first + step > $2 ? $2 - first : step))
        "$loadgen" "${address[$1]}" fill first=$first requests=$count | {
            read -r rate p50 p99 _
            echo "$rate"
            echo "  $((first + count)) keys: $rate puts/s, p50 $p50 us, p99 $p99 us, $(memory_mb "$1" VmRSS) MB" >&2
        }
    done
}

once() { # name, operation, keys, of keys, seed: ms that one request takes, and bytes of its answer
    "$loadgen" "${address[$1]}" "$2" connections=1 streams=1 requests=1 keys="$3" of="${4:-$3}" seed="${5:-1}" |
        awk '{ printf "%.1f %d\n", $2 / 1000, $4 }'
}

read_five() { # name, operation, keys, of keys: median ms of five
    local seed ms bytes
    for seed in 1 2 3 4 5; do
        read -r ms bytes < <(once "$@" $seed)
        ((bytes > $3 * 300)) || fail "$2 of $3 keys from $1 has only $bytes bytes"
        echo "$ms"
    done | median
}

timed() { # command...: leaves the seconds it took in `took`
    local before=$EPOCHREALTIME
    "$@"
    took=$(awk -v a="$before" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')
}

memory_mb() { echo $(($(memory_kb "${pid[$1]}" "$2") / 1024)); } # name, VmRSS or VmHWM

metric() { # name, metric
    curl -s "http://${address[$1]}/metrics" | awk -v name="$2" '$1 == name { printf "%.0f", $2 / 1048576 }'
}

report() { printf '%-44s %s\n' "$1" "$2"; }

run() { # name, keys, command to start it
    local name=$1 count=$2 ms
    shift 2
    "$@"
    fill "$name" "$count" >"$work/rates"
    echo "$name, $count keys"
    report "  puts/s, first and last $step" "$(head -n 1 "$work/rates") $(tail -n 1 "$work/rates")"
    report "  memory at the end and at most, MB" "$(memory_mb "$name" VmRSS) $(memory_mb "$name" VmHWM)"
    ms=$(read_five "$name" list "$listed" "$count")
    report "  list of $listed keys, ms" "$ms"
    ms=$(read_five "$name" page "$page" "$count")
    report "  page of $page keys with count of all, ms" "$ms"
    read -r ms _ < <(once "$name" hash 1)
    report "  HashKV, ms" "$ms"
    report "  db size and in use, MB" \
        "$(metric "$name" etcd_mvcc_db_total_size_in_bytes) $(metric "$name" etcd_mvcc_db_total_size_in_use_in_bytes)"
    report "  on disk with the log, MB" "$(du -sm "$work/$name" | cut -f 1)"
    stop "$name" TERM
    timed "$@"
    report "  start after a stop, s" "$took"
    stop "$name" KILL
    timed "$@"
    report "  start after kill -9, s" "$took"
    ms=$(read_five "$name" list "$listed" "$count")
    report "  list again, ms, and memory, MB" "$ms $(memory_mb "$name" VmRSS)"
    stop "$name" TERM
}

echo "MetaStore: $subject"
echo "etcd:      $reference ($("$reference" --version | head -n 1))"
run rocksdb "$keys" start rocksdb $port "$subject" --engine rocksdb "${flags[@]}"
rm -rf "$work/rocksdb"
((reference_keys == 0)) ||
    run etcd "$reference_keys" start etcd $((port + 2000)) "$reference" --quota-backend-bytes $((64 << 30))
