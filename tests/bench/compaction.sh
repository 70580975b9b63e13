#!/usr/bin/env bash
# Measures how long puts wait while a compaction drops the versions of a million puts, and while Defragment runs, next
# to an idle server: both engines and an etcd.
#
#   tests/bench/compaction.sh
#
#   METASTORE_BIN   the subject                       (default: target/release/metastore, built if it is not there)
#   ETCD_BIN        the reference, beside an etcdctl  (default: the newest etcd, by tests/etcd/install.sh)
#   REVISIONS       puts before the compaction        (default 1000000)
#   KEYS            keys of these puts                (default 100000)
#   REQUESTS        puts of one measurement           (default 2000)
#   IDLE            measurements of the idle server   (default 20)
#   BENCH_DIR       directory of all data             (default: the temporary directory); must be on a disk, not a tmpfs
#
# A measurement is REQUESTS puts over 8 connections, one in flight on each; one follows the other as long as the
# compaction runs. Printed are the median and the highest p99 of all measurements, in milliseconds.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
revisions=${REVISIONS:-1000000}
keys=${KEYS:-100000}
requests=${REQUESTS:-2000}
idle=${IDLE:-20}
source "$here/servers.sh"
etcdctl=$(dirname "$reference")/etcdctl
port=$((25000 + RANDOM % 800 * 2))

put_p99() { # name: prints the p99 of one measurement, in ms
    "$loadgen" "${address[$1]}" put connections=8 streams=1 requests="$requests" keys="$keys" seed=$RANDOM |
        awk '{ print $3 / 1000 }'
}

show() { # name, state; the p99s are on stdin
    sort -g | awk -v name="$1" -v state="$2" '{ v[NR] = $1 }
        END { if (NR == 0) { print name, state, "ended before a measurement"; exit }
              printf "%-8s %-10s p99 %7.2f ms (median of %d), %7.2f ms (highest)\n",
                  name, state, v[int((NR + 1) / 2)], NR, v[NR] }'
}

during() { # name, state, command...
    local name=$1 state=$2 begin=$EPOCHREALTIME
    shift 2
    "$@" >"$work/out" 2>&1 &
    local job=$!
    while kill -0 "$job" 2>/dev/null; do put_p99 "$name"; done | show "$name" "$state"
    wait "$job" || fail "$*: $(<"$work/out")"
    awk -v name="$name" -v state="$state" -v begin="$begin" -v end="$EPOCHREALTIME" \
        'BEGIN { printf "%-8s %-10s took %.1f s\n", name, state, end - begin }'
}

side() { # name, binary, flags...
    local name=$1 revision
    port=$((port + 2))
    start "$name" "$port" "${@:2}" --quota-backend-bytes 8589934592
    "$loadgen" "${address[$name]}" put requests="$revisions" keys="$keys" >/dev/null
    for ((i = 0; i < idle; i++)); do put_p99 "$name"; done | show "$name" idle
    revision=$("$etcdctl" --endpoints "${address[$name]}" get none -w fields | awk '/"Revision"/ { print $3 }')
    during "$name" compaction "$etcdctl" --endpoints "${address[$name]}" --command-timeout 10m compact --physical "$revision"
    during "$name" defragment "$etcdctl" --endpoints "${address[$name]}" --command-timeout 10m defrag
    stop "$name" TERM
}

side memory "$subject" --engine memory
side rocksdb "$subject" --engine rocksdb
side etcd "$reference"
