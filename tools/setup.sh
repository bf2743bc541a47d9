#!/usr/bin/env bash
# Sets up a machine for kto: installs the Debian or Ubuntu packages that are missing, configures and builds into build/.
# tools/demo and tools/test call this; nothing else installs anything. With everything in place it needs neither root
# nor a network.
#
#     tools/setup.sh [-DNAME=VALUE ...] [TARGET ...]      no TARGET: everything
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(build-essential cmake pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libconfig-dev libdnnl-dev
    libsentencepiece-dev libsimdjson-dev libpcre2-dev libutf8proc-dev libjansson-dev libxxhash-dev libedit-dev
    libmicrohttpd-dev libcmocka-dev libboost-context-dev procps curl)

fail() {
    echo "setup: $*" >&2
    exit 1
}

install_missing() {
    local missing=() root=() package state line
    for package in "${packages[@]}"; do
        # Newer releases have pkgconf in place of pkg-config.
        [[ $package == pkg-config ]] && command -v pkg-config >/dev/null && continue
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $state == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "packages are missing; run as root: $line"
        root=(sudo)
        line="sudo ${line/&& /&& sudo }"
    fi
    echo "setup: installing ${missing[*]}" >&2
    "${root[@]}" apt-get update >&2 || fail "the package lists cannot be fetched; run: $line"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2 ||
        fail "the packages cannot be installed; run: $line"
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    install_missing
fi
command -v cmake >/dev/null || fail "install what these Debian packages hold, then try again: ${packages[*]}"

defines=() targets=()
for argument in "$@"; do
    if [[ $argument == -* ]]; then defines+=("$argument"); else targets+=("$argument"); fi
done
cmake -S . -B build "${defines[@]}" ||
    fail "CMake found something missing (above); on Debian these packages hold it all: ${packages[*]}"
cmake --build build --parallel "$(nproc)" ${targets[@]+--target "${targets[@]}"}
