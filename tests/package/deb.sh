#!/usr/bin/env bash
# The Debian packages are made, and have what they should and nothing else; lintian finds no error where it is installed.
. "${BASH_SOURCE[0]%/*}/common.sh"
for tool in dpkg-deb dpkg-shlibdeps file; do # (CPack asks file(1) which files are programs)
    command -v $tool >/dev/null || {
        echo "skipped: $tool is not installed"
        exit 77
    }
done
cd "$BUILD" || exit 1
"$CPACK" -G DEB -B "$WORK" >"$WORK/log" 2>&1 || {
    cat "$WORK/log"
    exit 1
}
version=$("$KTO" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
kto=$WORK/kto_${version}_$architecture.deb
cuda=$WORK/kto-cuda_${version}_$architecture.deb

holds() { # PACKAGE PATH
    dpkg-deb --fsys-tarfile "$1" | tar -t | grep -qxF "./$2" || wrong "$(basename "$1") lacks $2"
}
for path in usr/bin/kto usr/share/kto/configs/demo/{demo.cfg,model/model.safetensors} usr/share/kto/slurm/train.sbatch \
    usr/share/man/man1/kto.1.gz usr/share/man/man5/kto.cfg.5.gz usr/share/bash-completion/completions/kto \
    usr/share/zsh/vendor-completions/_kto usr/share/doc/kto/{copyright,changelog.gz,README.md}; do
    holds "$kto" $path
done
while read -r name; do holds "$kto" "usr/share/man/man1/kto-${name// /-}.1.gz"; done < <(command_names)
dpkg-deb --fsys-tarfile "$kto" | tar -xO ./usr/share/kto/configs/demo/demo.cfg | grep -q '"/usr/share/kto/configs/demo/model"' ||
    wrong "demo.cfg does not name the model by its place"
for package in "$kto" "$cuda"; do
    [[ -e $package ]] || continue
    if dpkg-deb --fsys-tarfile "$package" | tar -t | grep -vE '^\./(usr/((bin|lib|share)/.*)?)?$'; then wrong "that does not belong into a package"; fi
    if dpkg-deb --ctrl-tarfile "$package" | tar -t | grep -q conffiles; then wrong "it has conffiles"; fi
    [[ $(dpkg-deb -f "$package" Section) == science ]] || wrong "no section"
done
depends=$(dpkg-deb -f "$kto" Depends)
for library in libc6 libhdf5 libopenmpi libdnnl libsentencepiece libsimdjson libpcre2 libutf8proc libconfig libjansson libxxhash; do
    # (MPI may be another one.)
    [[ $depends == *$library* || ($library == libopenmpi && $depends == *mpi*) ]] || wrong "kto does not depend on $library"
done
[[ ! $depends =~ cuda|cublas|nccl ]] || wrong "kto depends on CUDA"
if [[ -e $BUILD/kto_cuda.so ]]; then
    holds "$cuda" usr/lib/kto/kto_cuda.so
    [[ $(dpkg-deb -f "$cuda" Depends) == "kto (= $version), libc6" ]] || wrong "kto-cuda depends on $(dpkg-deb -f "$cuda" Depends)"
elif [[ -e $cuda ]]; then
    wrong "kto-cuda was made without modules"
fi
if command -v lintian >/dev/null; then
    # Names and addresses come with KTO_MAINTAINER.
    lintian --fail-on error --suppress-tags malformed-contact,bogus-mail-host-in-debian-changelog "$WORK"/*.deb >"$WORK/log" 2>&1 ||
        wrong "lintian: $(cat "$WORK/log")"
fi
exit $((failures > 0))
