#!/usr/bin/env bash
# disk.sh NAME: the disk is full, beyond its quota, read-only, broken, slow or stuck, too small for a checkpoint, or the folder
# vanishes. One message; what can go on goes on; nothing already written is lost; when all is well again the same command ends
# with the bits of an undisturbed run. (faults.c plays what only an administrator can make.)
. "$(dirname "$0")/common.sh"
name=$1
words=(train.save_steps=1 train.save_total_limit=100)
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
start() { # OUTPUT_DIR [key=value ...]: in the background
    mpirun -n 2 "$KTO" train "$name/run.cfg" train.output_dir="$1" "${words[@]}" "${@:2}" >"$WORK/log" 2>&1 &
    launcher=$!
    begin=$(now)
}
run_on() { # OUTPUT_DIR [key=value ...]
    start "$@"
    wait_for_end $launcher "$1" "$begin"
}
trains() { # CHECKPOINTS: until it has written one there
    until compgen -G "$1/step-*.h5" >/dev/null || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
}
good() { # OUTPUT_DIR WHAT
    "$COMPARE_RUNS" same "$WORK/whole" "$1" 2>"$WORK/log" || fail "$2: the run differs from the undisturbed one"
}
train "$name" 2 "$WORK/whole" "${words[@]}"

# Soon after the start checkpoints cannot be written any more: training goes to the end, says each time what is wrong, and
# ends with one error.
mkdir -p "$WORK/blocked" "$WORK/checkpoints"
ln -s "$WORK/checkpoints" "$WORK/blocked/checkpoints"
ln -s /dev/null "$WORK/nowhere"
start "$WORK/blocked"
trains "$WORK/checkpoints"
mv -T "$WORK/nowhere" "$WORK/blocked/checkpoints"
wait_for_end $launcher "$WORK/blocked" "$(now)"
((status == 1)) || fail "no checkpoint can be written: exit code $status instead of 1"
(($(grep -c 'warning: .*checkpoints.*; no checkpoint at step' "$WORK/log") >= 3)) || fail "no warning of each checkpoint"
(($(grep -c 'kto: error: .*checkpoints' "$WORK/log") == 1)) || fail "not one error"
[[ ! -e $WORK/blocked/adapter ]] || fail "the run looks finished"
rm "$WORK/blocked/checkpoints"
report "checkpoints that cannot be written (trained to the end)" "$WORK/blocked"
mv "$WORK/checkpoints" "$WORK/blocked/checkpoints"
run_on "$WORK/blocked"
((status == 0)) || fail "when they can be written again: exit code $status"
good "$WORK/blocked" "checkpoints could not be written"

# The folder vanishes.
start "$WORK/gone"
trains "$WORK/gone/checkpoints"
mv "$WORK/gone" "$WORK/moved"
wait_for_end $launcher "$WORK/gone" "$(now)"
((status == 1)) || fail "the folder vanished: exit code $status instead of 1"
grep -q 'error: .*gone/metrics.h5: was removed or replaced' "$WORK/log" || fail "the folder vanished: no clear message"
report "a folder that vanishes" "$WORK/moved"
run_on "$WORK/moved"
((status == 0)) || fail "the folder was moved: exit code $status"
good "$WORK/moved" "the folder was moved"

# From the middle of the run on, every write fails.
declare -A message=([quota]='Disk quota exceeded' [readonly]='Read-only file system')
for fault in quota readonly; do
    LD_PRELOAD=$FAULTS KTO_DISK=$fault:500000 run_on "$WORK/$fault"
    ((status == 1)) || fail "$fault: exit code $status instead of 1"
    [[ $(grep 'kto: error: ' "$WORK/log") == *": ${message[$fault]}" ]] || fail "$fault: not one error that says so"
    report "$fault (from the start on)" "$WORK/$fault"
    run_on "$WORK/$fault"
    ((status == 0)) || fail "after $fault: exit code $status"
    good "$WORK/$fault" "after $fault"
done

# One write fails.
LD_PRELOAD=$FAULTS KTO_DISK=broken:500000+1 run_on "$WORK/broken"
((status == 0)) || fail "a write that fails: exit code $status"
grep -q 'kto: warning: .*Input/output error' "$WORK/log" || fail "a write that fails: it did not say so"
good "$WORK/broken" "a write that fails"
echo "a write that fails: warned, trained on; exit code 0 after $milliseconds ms"

# Slow; and so slow that it is none.
LD_PRELOAD=$FAULTS KTO_DISK=slow:2 run_on "$WORK/slow" device.timeout_seconds=3
((status == 0)) || fail "a slow disk: exit code $status"
good "$WORK/slow" "a slow disk"
echo "2 ms more for each write and fsync: exit code 0 after $milliseconds ms"
LD_PRELOAD=$FAULTS KTO_DISK=stuck:500000 run_on "$WORK/stuck" device.timeout_seconds=3
((status == 1)) || fail "a disk that hangs: exit code $status"
grep -q 'error: rank 0 .* did not reach .* within 3 s' "$WORK/log" || fail "a disk that hangs: rank 0 is not named"
report "a disk that hangs, device.timeout_seconds 3 (from the start on)" "$WORK/stuck"
run_on "$WORK/stuck"
((status == 0)) || fail "after a disk that hangs: exit code $status"
good "$WORK/stuck" "after a disk that hangs"

mkdir "$WORK/disk"
mount -t tmpfs -o size=3m none "$WORK/disk" 2>/dev/null || {
    echo "skipped: full and read-only disks, for which this test must be allowed to mount"
    exit 0
}
trap 'umount -l "$WORK/disk"; rm -rf "$WORK"' EXIT

# A disk that fills up in the middle of the run, so that neither checkpoints nor rows fit.
start "$WORK/disk/run"
trains "$WORK/disk/run/checkpoints"
cat /dev/zero >"$WORK/disk/filler" 2>/dev/null
wait_for_end $launcher "$WORK/disk/run" "$(now)"
((status == 1)) || fail "a full disk: exit code $status instead of 1"
grep -q 'No space left on device' "$WORK/log" || fail "a full disk: it did not say so"
report "a full disk" "$WORK/disk/run"
rm "$WORK/disk/filler"
mount -o remount,size=64m "$WORK/disk"
run_on "$WORK/disk/run"
((status == 0)) || fail "with room again: exit code $status"
good "$WORK/disk/run" "the disk was full"

mount -o remount,ro "$WORK/disk"
run_on "$WORK/disk/new"
((status == 1)) || fail "a read-only disk: exit code $status instead of 1"
grep -q 'error: .*Read-only file system' "$WORK/log" || fail "a read-only disk: it did not say so"
(($(grep -c 'kto: error' "$WORK/log") == 1)) || fail "a read-only disk: more than one message"
echo "a disk that is read-only from the start: exit code 1 after $milliseconds ms"
