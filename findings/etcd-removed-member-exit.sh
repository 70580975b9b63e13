#!/usr/bin/env bash
# etcd 3.7.3: a member that was removed from its cluster and is started again exits with 0 or with 1, by chance.
#
# The member learns from the others that it was removed, and stops before it has served clients. The stop is no error,
# but the listeners that waited for the member to become ready report "server is stopping" as an error. Both reach the
# main program at about the same time: it exits with 0 if it sees the stop first, and with 1 otherwise. A service
# manager that restarts on failure starts it again in one of the two cases.
#
# Seen: the exit codes of one removed member of three, started up to 40 times on a copy of its directory.
# Package: go.etcd.io/etcd/server/v3 and etcdctl/v3, v3.7.3.
set -euo pipefail
command -v go >/dev/null || { echo "this needs go in PATH" >&2; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
cd "$tmp"
cat >go.mod <<'MOD'
module finding

go 1.24

require (
	go.etcd.io/etcd/etcdctl/v3 v3.7.3
	go.etcd.io/etcd/server/v3 v3.7.3
)
MOD
cat >tools.go <<'GO'
package finding

import (
	_ "go.etcd.io/etcd/etcdctl/v3/ctlv3"
	_ "go.etcd.io/etcd/server/v3/etcdmain"
)
GO
export GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0
go mod tidy >/dev/null 2>&1
go build -o etcd go.etcd.io/etcd/server/v3
go build -o etcdctl go.etcd.io/etcd/etcdctl/v3
member() { # number, directory
    local urls=http://127.0.0.1:4${1}81
    exec ./etcd --name "m$1" --data-dir "$2" --listen-client-urls "http://127.0.0.1:4${1}80" \
        --advertise-client-urls "http://127.0.0.1:4${1}80" --listen-peer-urls "$urls" \
        --initial-advertise-peer-urls "$urls" --log-level fatal \
        --initial-cluster m1=http://127.0.0.1:4181,m2=http://127.0.0.1:4281,m3=http://127.0.0.1:4381
}
for number in 1 2 3; do
    member $number "m$number" &
done
third=$!
ctl() { ./etcdctl --endpoints http://127.0.0.1:4180 --command-timeout 30s "$@"; }
until ctl endpoint health --cluster >/dev/null 2>&1; do sleep 0.5; done
sleep 6 # the members must have been connected for five seconds before one may go
id=$(ctl member list | sed -n 's/^\([0-9a-f]*\), started, m3,.*/\1/p')
ctl member remove "$id" >/dev/null
wait "$third" && echo "as it is removed: 0" || echo "as it is removed: $?"
declare -A seen=([0]=0 [1]=0)
for _ in $(seq 40); do
    rm -rf again && cp -r m3 again
    code=0
    (member 3 again 2>/dev/null) || code=$?
    seen[$code]=$((${seen[$code]:-0} + 1))
    ((seen[0] > 0 && seen[1] > 0)) && break
done
echo "started again: ${seen[0]} times 0, ${seen[1]} times 1"
if ((seen[0] == 0 || seen[1] == 0)); then
    echo "the behaviour has changed"
    exit 1
fi
