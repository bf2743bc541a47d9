#!/usr/bin/env bash
# What tools/gpu_pack packs runs on a machine that has none of our libraries and no ssh: a root with a shell, a few tools and the
# C library. There the demo trains alone and on two ranks of the packed mpirun, on the CPU and on the CUDA stand-in, and
# gpu_check takes the pack as it is. KTO_CHROOT=FOLDER names a root to use instead, as debootstrap makes them. Needs root.
. "${BASH_SOURCE[0]%/*}/common.sh"
skip() {
    echo "skipped: $*"
    exit 77
}
((EUID == 0)) || skip "a chroot needs root"
command -v ompi_info >/dev/null || skip "ompi_info (openmpi-bin) is not installed"
[[ -e $BUILD/tests/cuda_on_cpu/kto_cuda.so ]] || skip "the stand-in is not built"
# Mounts end with the namespace of this script.
if [[ -z ${KTO_CHROOT_UNSHARED-} ]]; then
    unshare --mount true 2>/dev/null || skip "this machine lets nobody mount"
    KTO_CHROOT_UNSHARED=1 exec unshare --mount bash "$0"
fi
"$SOURCE/tools/gpu_pack" 90 --build "$BUILD" --as-built --out "$WORK/pack.tar.gz" >"$WORK/log" 2>&1 || {
    cat "$WORK/log"
    exit 1
}

root=${KTO_CHROOT:-$WORK/root}
leave() {
    for place in proc dev/shm dev; do
        if mountpoint -q "$root/$place"; then umount --lazy "$root/$place"; fi
    done
    rm -rf --one-file-system "$root/pack" "$WORK"
}
trap leave EXIT
if [[ -z ${KTO_CHROOT-} ]]; then
    mkdir -p "$root"/{bin,tmp,proc,dev,etc,usr/bin}
    ln -s bin "$root/sbin"
    for tool in bash sh env true false cat head tail cp rm mkdir ls ln chmod date dirname basename realpath mktemp sort cut tr wc nproc \
        sleep timeout uname sed grep awk tar gzip diff cmp find; do
        program=$(type -P "$tool") || skip "$tool is not installed"
        cp -L "$program" "$root/bin/$tool"
        ldd "$program" 2>/dev/null | grep -o '/[^ )]*'
    done | sort -u >"$WORK/libraries"
    # What programs of the compiler load, and kto with them, every Linux has.
    ldd "$BUILD/kto" | grep -oE '/[^ ]*/lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s)\.so[^ ]*' >>"$WORK/libraries"
    sort -u "$WORK/libraries" | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
    ln -s /bin/env "$root/usr/bin/env"
fi
mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/dev" && mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm" ||
    skip "this machine lets nobody mount"
ln -s /proc/self/fd "$root/dev/fd"
for device in null zero urandom; do
    : >"$root/dev/$device"
    mount --bind /dev/$device "$root/dev/$device" || skip "this machine lets nobody mount"
done

mkdir -p "$root/pack"
cp "$WORK/pack.tar.gz" "$root/pack/"
cat >"$root/pack/try.sh" <<'END'
set -e
cd /pack && tar -xzf pack.tar.gz && cd kto-gpu-90 && . ./env.sh
if type -P ssh; then echo "this place has ssh" && exit 1; fi
kto=$PWD/build-gpu/kto
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none KTO_STANDIN_DEVICES=2
"$kto" --version | cmp - <(sed 's/, for compute.*//' build-gpu/packed)
train() { # NAME RANKS key=value ...
    mpirun -n "$2" "$kto" train configs/demo/demo.cfg train.max_steps=3 train.eval_steps=0 data.eval= train.global_batch_size=4 \
        model.dtype=float32 train.output_dir=/pack/"$1" "${@:3}"
}
"$kto" train configs/demo/demo.cfg train.max_steps=3 train.eval_steps=0 data.eval= train.global_batch_size=4 model.dtype=float32 \
    train.output_dir=/pack/alone device.backend=cpu
train two 2 device.backend=cpu
KTO_MODULE_DIR=$PWD/build-gpu/tests/cuda_on_cpu
export KTO_MODULE_DIR
train standin-1 1 device.backend=cuda
train standin-2 2 device.backend=cuda device.comm=nccl
for run in two standin-1 standin-2; do build-gpu/tests/runs/compare_runs near /pack/alone /pack/$run 1e-4; done
tools/gpu_check --standin --steps build,golden
grep 'skip .*build: .* for compute capability 9.0, was packed' build-gpu/check/report.txt
END
env -i PATH=/usr/bin:/bin HOME=/ LC_ALL=C "$(type -P chroot)" "$root" bash /pack/try.sh >"$WORK/log" 2>&1 || {
    cat "$WORK/log"
    wrong "the pack does not run there"
}
exit $((failures > 0))
