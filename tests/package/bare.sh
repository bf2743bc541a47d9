#!/usr/bin/env bash
# bare.sh [CTEST ARGUMENT ...]: tools/demo and tools/test on a Debian that holds nothing but git, and that has no ssh, from a
# clone of HEAD: every test passes or is skipped by name. Run by hand (debian.sh says what it needs) whenever tools/setup.sh
# changes; takes an hour on two cores and 3 GB in TMPDIR. Without arguments, which choose tests, it then writes bare.proven, to
# be committed: the hash of the tools/setup.sh that was proven, and what for people.
#
#     bare.sh --check         the test package/bare-proven: is bare.proven of this tools/setup.sh? (77: no)
set -euo pipefail
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
source=$here/../..
setup_hash() {
    sha256sum <"$1" | cut -d' ' -f1
}

if [[ ${1-} == --check ]]; then
    if [[ -e $here/bare.proven && $(setup_hash "$source/tools/setup.sh") == "$(cut -d' ' -f1 "$here/bare.proven")" ]]; then exit 0; fi
    echo "skipped: this tools/setup.sh was not proven on a new Debian yet: run tests/package/bare.sh as root and commit bare.proven"
    exit 77
fi

. "$here/debian.sh"
debian_enter "$@"
debian_make
inside apt-get -qq -y --no-install-recommends install git >/dev/null
# openmpi-bin depends on an ssh client, but containers are often without one.
printf 'path-exclude=/usr/bin/%s\n' ssh slogin >"$root/etc/dpkg/dpkg.cfg.d/no-ssh"
rm -rf "$root/root/kto.c"
git -C "$source" bundle create --quiet "$root/kto.bundle" HEAD
inside git clone --quiet /kto.bundle /root/kto.c
if (($# == 0)); then inside sh -c 'cd /root/kto.c && tools/demo'; fi
# (Not the test that asks for this proof.)
inside sh -c 'cd /root/kto.c && tools/test -E package/bare-proven "$@"' sh "$@" | tee "$root/test.log"
if inside sh -c 'command -v ssh rsh'; then
    echo "an ssh came with the packages after all"
    exit 1
fi
if (($# == 0)); then
    printf '%s tools/setup.sh of %s, %s: %s\n' "$(setup_hash "$root/root/kto.c/tools/setup.sh")" "$(git -C "$source" rev-parse --short HEAD)" \
        "$(. "$root/etc/os-release" && echo "$PRETTY_NAME")" "$(grep -o '[0-9]*% tests passed.*' "$root/test.log")" >"$here/bare.proven"
    cat "$here/bare.proven"
fi
