#!/usr/bin/env bash
# Compiles everything that tests need, then runs all tests; prints the time that each part took.
#
#   xtask/test.sh        (through `make test`, which first installs missing programs)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

started=$SECONDS
cargo test --locked --workspace --no-run
# A server without RocksDB, for the test of its error message.
cargo build --locked --profile test -p metastore-server --bin metastore --no-default-features
cp -f "$target/debug/metastore" "$target/debug/metastore-without-rocksdb"
export METASTORE_WITHOUT_ROCKSDB=${METASTORE_WITHOUT_ROCKSDB:-$target/debug/metastore-without-rocksdb}
# The server as users run it, without the features that tests switch on in its libraries. It gets a name of its own,
# because cargo links the build with those features under the usual name.
cargo build --locked --profile test -p metastore-server --bin metastore
cp -f "$target/debug/metastore" "$target/debug/metastore-under-test"
export METASTORE_BIN=${METASTORE_BIN:-$target/debug/metastore-under-test}
# The command line, which `cargo test` does not build for other packages.
cargo build --locked --profile test -p metastore-cli --bin metactl
export METACTL_BIN=${METACTL_BIN:-$target/debug/metactl}
# Without Go there is no newest etcd for comparisons, only the one from a Python wheel.
command -v go >/dev/null || export ETCD_FLAVOR=${ETCD_FLAVOR:-3.5.1}
# The simulator with deliberate bugs.
cargo build --locked --profile test -p metastore-sim --bin metastore-sim --features mutants
cp -f "$target/debug/metastore-sim" "$target/debug/metastore-sim-mutants"
compiled=$SECONDS

status=0
cargo test --locked --workspace --no-fail-fast || status=$?
# Bugs that must be found, in durability, reads, watches, permissions and alarms. `make mutants` tries all bugs.
"$target/debug/metastore-sim-mutants" --mutants 1,11,27,46,50 --seeds 2000 || status=1
tested=$SECONDS

echo "compile: $((compiled - started)) s"
echo "test: $((tested - compiled)) s"
exit $status
