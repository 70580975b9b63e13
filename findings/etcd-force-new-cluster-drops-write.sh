#!/usr/bin/env bash
# etcd 3.7.3: a start with --force-new-cluster drops entries of the log that it does not know to be committed. The
# commit index of an entry is recorded with a later write. So the last acknowledged write of a member that is killed is
# gone after a start with the flag, even in a cluster of one, where every entry of the log is committed. The revision
# goes back with it, and the next write takes the same revision. A start without the flag keeps the write.
#
# A service that leaves the flag in its command line therefore loses acknowledged writes at each crash.
# (--backend-batch-interval only makes sure that the database was not written between write and kill; by default that
# happens after 100 ms.)
#
# Seen: the value of a key after a kill and a start, with and without the flag. Package: go.etcd.io/etcd/server/v3,
# v3.7.3.
set -euo pipefail
for tool in go curl; do
    command -v "$tool" >/dev/null || { echo "this needs $tool in PATH" >&2; exit 2; }
done
tmp=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null || true; wait; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
cd "$tmp"
cat >go.mod <<'MOD'
module finding

go 1.24

require go.etcd.io/etcd/server/v3 v3.7.3
MOD
cat >tools.go <<'GO'
package finding

import _ "go.etcd.io/etcd/server/v3/etcdmain"
GO
export GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0
go mod tidy >/dev/null 2>&1
go build -o etcd go.etcd.io/etcd/server/v3
url=http://127.0.0.1:4182
start() {
    ./etcd --data-dir "$1" --listen-client-urls $url --advertise-client-urls $url --log-level fatal \
        --listen-peer-urls http://127.0.0.1:4183 --initial-advertise-peer-urls http://127.0.0.1:4183 \
        --initial-cluster default=http://127.0.0.1:4183 --backend-batch-interval=1h "${@:2}" &
    until curl -s $url/health | grep -q '"health":"true"'; do sleep 0.1; done
}
kv() { curl -s "$url/v3/kv/$1" -d "$2"; }
# The key "a" is YQ== in base64, "1" is MQ==, "2" is Mg==.
value_after() {
    start "$1"
    kv put '{"key":"YQ==","value":"MQ=="}' >/dev/null
    kv put '{"key":"YQ==","value":"Mg=="}' | grep -q '"revision":"3"' || echo "the second write has another revision"
    kill -9 $!
    wait $! 2>/dev/null || true
    start "$@"
    kv range '{"key":"YQ=="}' | grep -o '"value":"[^"]*"' || echo none
    kill -9 $!
    wait $! 2>/dev/null || true
}

without=$(value_after without)
with=$(value_after with --force-new-cluster)
echo "after a kill: $without; with --force-new-cluster: $with"
if [[ "$without / $with" != '"value":"Mg==" / "value":"MQ=="' ]]; then
    echo "the behaviour has changed"
    exit 1
fi
