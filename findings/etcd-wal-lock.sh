#!/usr/bin/env bash
# etcd 3.7.3: a running etcd locks the segments of its log with locks of open file descriptions (fcntl, F_OFD_SETLK),
# and nothing else in `member/wal`. Such locks and those of flock(2) do not see each other on Linux.
#
# So flock(1) on a segment of a running etcd succeeds, as if the file were free, and a program that guards the directory
# with flock does not keep an etcd off it: an etcd that finds every segment under another program's flock starts, and
# serves. A lock by fcntl is seen on both sides: taking one fails while an etcd runs, and an etcd that meets one ends
# with "file already locked".
#
# Seen: the result of flock(1) and of fcntl on the segment of a running etcd; an etcd started under each kind of lock.
# Package: go.etcd.io/etcd/server/v3, v3.7.3.
set -euo pipefail
for tool in go flock python3; do
    command -v "$tool" >/dev/null || { echo "this needs $tool in PATH" >&2; exit 2; }
done
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
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
etcd=(./etcd --data-dir data --listen-client-urls http://127.0.0.1:4180 --log-level fatal
    --advertise-client-urls http://127.0.0.1:4180 --listen-peer-urls http://127.0.0.1:4181
    --initial-advertise-peer-urls http://127.0.0.1:4181 --initial-cluster default=http://127.0.0.1:4181)
serves() { (exec 3<>/dev/tcp/127.0.0.1/4180) 2>/dev/null; }
segment=data/member/wal/0000000000000000-0000000000000000.wal
# Locks the segment by fcntl, and runs a command meanwhile; exits with 75 if it is locked.
by_fcntl() {
    python3 -c '
import fcntl, subprocess, sys
file = open(sys.argv[1], "r+b")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
sys.exit(subprocess.run(sys.argv[2:]).returncode)' "$segment" "$@"
}

"${etcd[@]}" &
until serves; do sleep 0.2; done
flock -n "$segment" true && by_flock=taken || by_flock=refused
code=0
by_fcntl true || code=$?
echo "beside a running etcd: flock $by_flock, fcntl exit code $code"
kill $!
wait $! || true

flock --no-fork -n "$segment" "${etcd[@]}" &
under_flock=refused
for _ in $(seq 50); do
    serves && under_flock=serves && break
    sleep 0.2
done
echo "under the flock of another program: etcd $under_flock"
kill $!
wait $! || true

by_fcntl timeout 20 "${etcd[@]}" 2>log && under_fcntl=ended || under_fcntl=failed
grep -q 'file already locked' log && under_fcntl=locked
echo "under the fcntl lock of another program: etcd $under_fcntl"

if [[ $by_flock/$code/$under_flock/$under_fcntl != taken/75/serves/locked ]]; then
    echo "the behaviour has changed"
    exit 1
fi
