# The common part of the measuring scripts: the binaries, a working directory, and the start and stop of servers. It is
# sourced after `here` is set.
export LC_ALL=C
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

subject=${METASTORE_BIN:-}
if [[ -z $subject ]]; then
    (cd "$root" && cargo build --quiet --release -p metastore-server --bin metastore)
    subject=$target/release/metastore
fi
reference=${ETCD_BIN:-$("$root/tests/etcd/install.sh" newest | tail -n 1)/etcd}
(cd "$root" && cargo build --quiet --release -p metastore-tests --bin loadgen)
loadgen=$target/release/loadgen

work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/metastore-bench.XXXXXX")
[[ $(stat -f -c %T "$work") != tmpfs ]] || fail "$work is in memory: set BENCH_DIR to a directory on a disk"
declare -A pid address
# A header of each request of h2load, by the address of the server.
declare -A header
trap 'kill ${pid[@]} 2>/dev/null || true; wait; rm -rf "$work"' EXIT

start() { # name, client port, binary, flags...
    local name=$1 port=$2 binary=$3 scheme=http
    shift 3
    [[ " $* " != *' --cert-file '* ]] || scheme=https
    address[$name]=127.0.0.1:$port
    "$binary" --name bench --data-dir "$work/$name" \
        --listen-client-urls "$scheme://127.0.0.1:$port" --advertise-client-urls "$scheme://127.0.0.1:$port" \
        --listen-peer-urls "http://127.0.0.1:$((port + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((port + 1))" \
        --initial-cluster "bench=http://127.0.0.1:$((port + 1))" --log-level warn "$@" \
        >"$work/$name.log" 2>&1 &
    pid[$name]=$!
    local deadline=$((SECONDS + 600))
    until curl -sfk "$scheme://127.0.0.1:$port/health" >/dev/null; do
        kill -0 "${pid[$name]}" 2>/dev/null || fail "$binary ended: $(tail -n 3 "$work/$name.log")"
        ((SECONDS < deadline)) || fail "$binary does not answer /health"
        read -rt 0.02 <> <(:) || true
    done
}

stop() { # name, signal
    kill "-$2" "${pid[$1]}"
    wait "${pid[$1]}" 2>/dev/null || true
}

cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
disk_bytes() { awk '/^write_bytes/ { print $2 }' "/proc/$1/io"; }
memory_kb() { awk -v field="^$2:" '$0 ~ field { print $2 }' "/proc/$1/status"; } # process, VmRSS or VmHWM
median() { sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2 }'; }

need_h2load() { command -v h2load >/dev/null || fail "there is no h2load (Debian: apt-get install nghttp2-client)"; }

# Prints: requests per second, p50 in us, p99 in us.
run_h2load() { # address, operation, connections, streams, requests
    local path out kind=(-H 'content-type: application/grpc' -H 'te: trailers')
    case $2 in
    put) path=etcdserverpb.KV/Put ;;
    txn) path=etcdserverpb.KV/Txn ;;
    range) path=etcdserverpb.KV/Range ;;
    json-put) path=v3/kv/put kind=(--h1 -H 'content-type: application/json') ;;
    json-range) path=v3/kv/range kind=(--h1 -H 'content-type: application/json') ;;
    esac
    : >"$work/latencies"
    out=$(h2load -n "$5" -c "$3" -m "$4" -t 1 -d "$work/$2.body" --log-file "$work/latencies" \
        "${kind[@]}" ${header[$1]:+-H "${header[$1]}"} "http://$1/$path")
    grep -q " $5 succeeded, 0 failed, 0 errored" <<<"$out" || fail "h2load: $out"
    local rate
    rate=$(sed -n 's|^finished in .*, \([0-9.]*\) req/s.*|\1|p' <<<"$out")
    cut -f 3 "$work/latencies" | sort -n | awk -v rate="$rate" \
        '{ us[NR] = $1 } END { printf "%.0f %d %d\n", rate, us[int((NR + 1) / 2)], us[int(NR * 0.99 + 0.5)] }'
}
