#!/usr/bin/env bash
# Measures logins, tokens, TLS and its handshakes of MetaStore and a real etcd on the same machine: the same flags, the
# servers in turn, medians of all rounds. Then the price of each: our server with it beside our server without anything.
#
#   tests/bench/security.sh       with METASTORE_BIN, ETCD_BIN, ROUNDS, REQUESTS and BENCH_DIR of bench.sh
#
#   KEYS           distinct keys      (default 10000)
#
# There are a twentieth of REQUESTS handshakes, and a two hundredth of them logins, in each round. The token of a load
# comes from one login of a user who may put and read its keys; its password has the smallest cost, unless logins are
# measured. Certificates are ECDSA P-256, and the client verifies them.
#
# Columns: as in bench.sh. The lines with an x are ratios to the last server of the block. A handshake takes the client
# as much time as the server, so the requests per second of the server's processor time say more about it than the rate.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rounds=${ROUNDS:-5}
requests=${REQUESTS:-40000}
keys=${KEYS:-10000}
source "$here/servers.sh"
source "$here/measure.sh"
need_h2load
for operation in put range; do "$loadgen" body $operation >"$work/$operation.body"; done
port=$((25000 + RANDOM % 800 * 2))

openssl_quietly() {
    openssl "$@" >"$work/openssl.log" 2>&1 || fail "openssl $1: $(tail -n 3 "$work/openssl.log")"
}

certificates() {
    local name
    for name in ca server; do
        openssl_quietly genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$name.key"
    done
    openssl_quietly req -x509 -new -key "$work/ca.key" -subj '/CN=CA of a measurement' -days 2 -out "$work/ca.crt"
    openssl_quietly req -new -key "$work/server.key" -subj /CN=bench -out "$work/server.csr"
    openssl_quietly x509 -req -in "$work/server.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -extfile <(echo subjectAltName=IP:127.0.0.1) -out "$work/server.crt"
    openssl_quietly genrsa -out "$work/jwt.key" 2048
    openssl_quietly rsa -in "$work/jwt.key" -pubout -out "$work/jwt.pub"
}

ours() { # name, flags...
    start "$1" $port "$subject" --engine memory "${@:2}"
    port=$((port + 2))
}

# Starts MetaStore as NAME, and etcd as etcd-NAME.
both() { # name, flags...
    ours "$@"
    start "etcd-$1" $port "$reference" "${@:2}"
    port=$((port + 2))
}

# Both servers have a user, and authentication is enabled.
with_user() { # name
    local side
    for side in "$1" "etcd-$1"; do
        options[${address[$side]}]='user=bench password=word'
        header[${address[$side]}]="token: $(run_loadgen "${address[$side]}" enable 1 1 1 0 0)"
    done
}

certificates
ours plain
ours audit --audit-log "$work/audit.log" --audit-level writes
both login --auth-token simple --bcrypt-cost 10
both token --auth-token simple --bcrypt-cost 4
both jwt --auth-token "jwt,priv-key=$work/jwt.key,pub-key=$work/jwt.pub,sign-method=RS256,ttl=1h" --bcrypt-cost 4
both tls --cert-file "$work/server.crt" --key-file "$work/server.key"
for name in login token jwt; do with_user $name; done
for name in tls etcd-tls; do options[${address[$name]}]="ca=$work/ca.crt"; done

echo "MetaStore: $subject"
echo "etcd:      $reference ($("$reference" --version | head -n 1))"
echo "$(nproc) processors, $rounds rounds, medians, fsync on, key 51 B, value 256 B, $keys keys"

# Warms up.
for name in "${!address[@]}"; do
    [[ $name == *login ]] || run_loadgen "${address[$name]}" put 8 8 2000 0 0 >/dev/null
done

# First of all, while all servers hold as little.
sides=(token jwt tls audit plain)
measure "Put of our servers: with tokens, TLS, the audit log of writes, and none of them, 64 connections x 16 in flight" \
    loadgen put 64 16 "$requests"
sides=(token jwt tls plain)
measure "Range of our servers, linearizable, 64 x 16" loadgen range 64 16 "$requests"
sides=(login etcd-login)
measure "Logins at bcrypt cost 10, 64 connections" loadgen login 64 1 $((requests / 200))
sides=(token etcd-token)
measure "Put with a simple token, one hot key, 64 x 16" h2load put 64 16 "$requests"
measure "Range with a simple token, linearizable, 64 x 16" h2load range 64 16 "$requests"
sides=(jwt etcd-jwt)
measure "Put with a signed token (RS256), one hot key, 64 x 16" h2load put 64 16 "$requests"
measure "Range with a signed token (RS256), linearizable, 64 x 16" h2load range 64 16 "$requests"
sides=(tls etcd-tls)
measure "Put over TLS, 64 x 16" loadgen put 64 16 "$requests"
measure "Range over TLS, linearizable, 64 x 16" loadgen range 64 16 "$requests"
measure "TLS handshakes, none resumed, 64 at a time" loadgen handshake 64 1 $((requests / 20))
