# Each target does all of its own set-up: it installs what is missing (xtask/install.sh), builds, and runs.

# Outside the clone. Each clone has its own: cargo takes what another clone compiled into the same directory for its own,
# if that is newer than the files here.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/metastore/target/$(shell pwd | cksum | cut -d' ' -f1)
export CARGO_TERM_PROGRESS_WHEN ?= never
cache := $(or $(METASTORE_CACHE),$(HOME)/.cache/metastore)
tools := $(cache)/tools/bin
# RocksDB, compiled once by xtask/install.sh for all builds; or your own of the same version.
export ROCKSDB_LIB_DIR ?= $(cache)/rocksdb/$(shell sed -n '/^name = "librocksdb-sys"$$/{n;s/^version = "\(.*\)"$$/\1/p}' Cargo.lock)
export ROCKSDB_STATIC ?= 1
# RocksDB takes some minutes to compile, and the default engine does not need it. So commands that only run a
# server build it in only if ENGINE=rocksdb asks for it, or if it is compiled already.
engines = $(if $(filter rocksdb,$(ENGINE))$(wildcard $(ROCKSDB_LIB_DIR)/librocksdb.a),,--no-default-features)

.PHONY: help run cluster cluster-stop test lint fmt coverage bench bench-cluster bench-security load sim mutants soak

help:
	@echo 'make run        build and start a durable single member, as etcd starts with no flags; ENGINE=rocksdb keeps its state on disk'
	@echo 'make cluster    three members on this machine, in ./cluster; make cluster-stop ends them'
	@echo 'make test       all tests'
	@echo 'make lint       format, clippy, rules of the repository, licences and sources of what is built in'
	@echo 'make fmt        format the code'
	@echo 'make coverage   line coverage of engine, store and replica; fails below 90 %'
	@echo 'make soak       simulated clusters for MINUTES, then all tests, those that draw lots for longer (KILLS, CUTS, CALLS, HISTORIES, PROPTEST_CASES), and a delete of a million keys'
	@echo 'make sim        simulated clusters, checked: ARGS="--seeds 1000 --engine mixed"; ARGS=--help says what else; docs/testing.md'
	@echo 'make mutants    switches on one deliberate bug after the other; the simulator must find each'
	@echo 'make load       ten million keys on disk: rates, memory, restarts, lists; takes a quarter of an hour and 20 GB'
	@echo 'make bench      side by side with a real etcd: throughput, latency, processor time, bytes; make bench-cluster with three members of each'
	@echo 'make bench-security  the same for logins, tokens, TLS and its handshakes; and the price of each, and of the audit log, beside none'

run:
	@xtask/install.sh run $(ENGINE)
	@cargo build --locked --release --package metastore-server --bin metastore $(engines)
	@echo 'clients connect to http://127.0.0.1:2379 (etcdctl does without a flag); data is in ./default.etcd; stop with Ctrl-C'
	@exec "$(CARGO_TARGET_DIR)/release/metastore" $(if $(ENGINE),--engine $(ENGINE))

cluster:
	@xtask/install.sh run $(ENGINE)
	@cargo build --locked --release --package metastore-server --bin metastore $(engines)
	@METASTORE_BIN="$(CARGO_TARGET_DIR)/release/metastore" ENGINE="$(ENGINE)" xtask/cluster.sh start

cluster-stop:
	@xtask/cluster.sh stop

test:
	@xtask/install.sh test
	@xtask/test.sh

lint:
	@xtask/install.sh lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --profile test -- -D warnings
	cargo xtask tidy
	"$(tools)/cargo-deny" --log-level warn check bans licenses sources

fmt:
	@cargo fmt --all

coverage:
	@xtask/install.sh coverage
	@cargo xtask coverage

bench:
	@xtask/install.sh bench
	@cargo build --locked --release --package metastore-server --bin metastore
	@METASTORE_BIN="$(CARGO_TARGET_DIR)/release/metastore" ETCD_BIN="$${ETCD_BIN:-$$(tests/etcd/install.sh)/etcd}" tests/bench/bench.sh

bench-cluster:
	@xtask/install.sh bench
	@cargo build --locked --release --package metastore-server --bin metastore
	@METASTORE_BIN="$(CARGO_TARGET_DIR)/release/metastore" ETCD_BIN="$${ETCD_BIN:-$$(tests/etcd/install.sh)/etcd}" tests/bench/cluster.sh

bench-security:
	@xtask/install.sh bench
	@cargo build --locked --release --package metastore-server --bin metastore
	@METASTORE_BIN="$(CARGO_TARGET_DIR)/release/metastore" ETCD_BIN="$${ETCD_BIN:-$$(tests/etcd/install.sh)/etcd}" tests/bench/security.sh

load:
	@xtask/install.sh bench
	@cargo build --locked --release --package metastore-server --bin metastore
	@METASTORE_BIN="$(CARGO_TARGET_DIR)/release/metastore" ETCD_BIN="$${ETCD_BIN:-$$(tests/etcd/install.sh)/etcd}" tests/bench/load.sh

# Not `cargo run`, which prints its own lines between those of the simulator.
sim:
	@xtask/install.sh run rocksdb
	@cargo build --locked --quiet --release --package metastore-sim
	@"$(CARGO_TARGET_DIR)/release/metastore-sim" $(ARGS)

mutants:
	@xtask/install.sh run rocksdb
	@cargo build --locked --release --package metastore-sim --features mutants
	@cp -f "$(CARGO_TARGET_DIR)/release/metastore-sim" "$(CARGO_TARGET_DIR)/release/metastore-sim-mutants"
	@"$(CARGO_TARGET_DIR)/release/metastore-sim-mutants" --mutants all --minutes 5 --seeds 1000000

# First simulated clusters, with new seeds, for MINUTES on each choice of engines. Then the random tests for longer: kills
# under load, calls compared with etcd, recorded histories (half a minute each), cases of each property; and a delete of a
# million keys (SOAK).
soak:
	@xtask/install.sh test
	@cargo build --locked --quiet --release --package metastore-sim
	@first=$$(date +%s)000; for engine in memory mixed rocksdb; do \
	    "$(CARGO_TARGET_DIR)/release/metastore-sim" --engine $$engine --first-seed $$first --seeds 1000000000 --minutes $${MINUTES:-20} || exit 1; \
	done
	@SOAK=1 KILLS=$${KILLS:-500} CUTS=$${CUTS:-100} CALLS=$${CALLS:-1000000} HISTORIES=$${HISTORIES:-20} PROPTEST_CASES=$${PROPTEST_CASES:-10000} xtask/test.sh
