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
source "$here/measure.sh"
need_h2load

for operation in put txn range; do "$loadgen" body $operation >"$work/$operation.body"; done
# The same key through the JSON gateway.
key=$(head -c 51 /dev/zero | tr '\0' k | base64 -w 0)
printf '{"key":"%s","value":"%s"}' "$key" "$(head -c 256 /dev/urandom | base64 -w 0)" >"$work/json-put.body"
printf '{"key":"%s"}' "$key" >"$work/json-range.body"
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
measure "Put through the JSON gateway, one hot key, 64 connections of HTTP/1" h2load json-put 64 1 "$requests"
measure "Range through the JSON gateway, one key, linearizable, 64 connections" h2load json-range 64 1 "$requests"
measure "Put, one client, one at a time" h2load put 1 1 "$few"
measure "Put, $keys keys, random, 64 x 16" loadgen put 64 16 "$requests" 0
measure "Put, $keys keys, zipf, 64 x 16" loadgen put 64 16 "$requests" 1
measure "Txn, $keys keys, random, 64 x 16" loadgen txn 64 16 "$requests" 0
measure "Range, $keys keys, zipf, linearizable, 64 x 16" loadgen range 64 16 "$requests" 1
measure "Lease renewals, 1000 leases on one stream" loadgen renew 1 1 "$((requests * 10))"
measure "Lease renewals, 1000 leases on each of 8 streams, 8 connections" loadgen renew 8 1 "$((requests * 20))"
