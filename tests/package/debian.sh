# shellcheck shell=bash
# A Debian or Ubuntu of this machine's release with nothing in it but what debootstrap's minbase holds, for the scripts of
# this folder that a person starts: as root, with debootstrap and a network. There are no pseudo-terminals in it.
#
#     debian_enter "$@"        mounts are made in a namespace of the script's own, and end with it
#     debian_make              the system, in the folder `root`; KTO_CHROOT=FOLDER keeps it there for the next time
#     inside COMMAND ...       runs as root in it
skip() {
    echo "skipped: $*"
    exit 77
}

debian_enter() {
    ((EUID == 0)) || skip "a chroot needs root"
    command -v debootstrap >/dev/null || skip "debootstrap is not installed"
    command -v unshare >/dev/null || skip "unshare is not installed"
    if [[ -z ${KTO_CHROOT_UNSHARED-} ]]; then
        unshare --mount true 2>/dev/null || skip "this machine lets nobody mount"
        KTO_CHROOT_UNSHARED=1 exec unshare --mount bash "$0" "$@"
    fi
}

debian_leave() {
    local place
    for place in sys dev/shm proc; do
        if mountpoint -q "$root/$place"; then umount --lazy --recursive "$root/$place"; fi
    done
    [[ ${KTO_CHROOT-} ]] || rm -rf --one-file-system "$root"
}

debian_make() {
    local origin mirror
    . /etc/os-release
    origin=${ID^}
    mirror=$(apt-get indextargets --format '$(SITE)' "Origin: $origin" "Codename: $VERSION_CODENAME" "Created-By: Packages" | sed -n 1p)
    [[ $mirror ]] || skip "apt's sources have no $origin $VERSION_CODENAME"
    root=${KTO_CHROOT:-$(mktemp -d)}
    mkdir -p "$root"
    chmod 755 "$root"
    trap debian_leave EXIT
    if [[ ! -e $root/etc/os-release ]]; then
        debootstrap --variant=minbase "$VERSION_CODENAME" "$root" "$mirror" >"$root.log" 2>&1 || {
            tail -n3 "$root.log"
            skip "debootstrap cannot make $VERSION_CODENAME from $mirror; is there a network?"
        }
        rm -f "$root.log"
    fi
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount --rbind /sys "$root/sys" # hwloc wants it
    mount --make-rslave "$root/sys"
    inside apt-get -qq update
}

inside() {
    echo "+ $*"
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"
}
