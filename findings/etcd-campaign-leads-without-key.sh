#!/usr/bin/env bash
# etcd 3.7.3: Campaign of the Election service answers a candidate whose lease ended while it waited as if it led.
#
# A candidate waits until no key before its own is left, and does not look whether its own is still there. If its lease
# ends first, its key goes, and later the call answers with a leader (name, key, revision, lease) that is not stored;
# Leader says that there is none. Lock of the Lock service, which waits the same way, looks at its key at the end and
# answers "mutex: session is expired".
#
# A service that begins its work when Campaign answers therefore works beside the next leader, unless it checks its key.
#
# Seen: the answers of Campaign, Lock and Leader after the lease of the waiter was revoked, and then that of the first.
# Package: go.etcd.io/etcd/server/v3, v3.7.3.
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
url=http://127.0.0.1:4184
./etcd --data-dir data --listen-client-urls $url --advertise-client-urls $url --log-level fatal \
    --listen-peer-urls http://127.0.0.1:4185 --initial-advertise-peer-urls http://127.0.0.1:4185 \
    --initial-cluster default=http://127.0.0.1:4185 &
until curl -s $url/health | grep -q '"health":"true"'; do sleep 0.1; done
ask() { curl -s "$url/v3/$1" -d "$2"; echo; }
# The name "e" is ZQ== in base64, "l" is bA==; their ends are "f" (Zg==) and "m" (bQ==).
waiting() { until ask kv/range "{\"key\":\"$1\",\"range_end\":\"$2\",\"count_only\":true}" | grep -q '"count":"2"'; do sleep 0.1; done; }

for lease in 7 8; do ask lease/grant "{\"ID\":$lease,\"TTL\":600}" >/dev/null; done
ask election/campaign '{"name":"ZQ==","lease":7}' >/dev/null
ask lock/lock '{"name":"bA==","lease":7}' >/dev/null
ask election/campaign '{"name":"ZQ==","lease":8}' >campaign &
campaign=$!
ask lock/lock '{"name":"bA==","lease":8}' >lock &
lock=$!
waiting ZQ== Zg==
waiting bA== bQ==
for lease in 8 7; do ask lease/revoke "{\"ID\":$lease}" >/dev/null; done
wait $campaign $lock
leader=$(ask election/leader '{"name":"ZQ=="}')
echo "Campaign: $(<campaign)"
echo "Lock:     $(<lock)"
echo "Leader:   $leader"
# "e/8" is ZS84.
if ! grep -q '"key":"ZS84"' campaign || ! grep -q 'mutex: session is expired' lock || ! grep -q 'no leader' <<<"$leader"; then
    echo "the behaviour has changed"
    exit 1
fi
