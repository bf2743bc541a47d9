#!/usr/bin/env bash
# disk.sh NAME: the disk is full, read-only, too small for a checkpoint, or the folder vanishes. One message; what can go on
# goes on; nothing already written is lost; with room again the same command ends with the bits of an undisturbed run.
. "$(dirname "$0")/common.sh"
name=$1
words=(train.save_steps=1 train.save_total_limit=100)
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
run_on() { # OUTPUT_DIR [key=value ...]: trains, in $seconds, with exit code $status
    local begin=$SECONDS
    mpirun -n 2 "$KTO" train "$name/run.cfg" train.output_dir="$1" "${words[@]}" "${@:2}" >"$WORK/log" 2>&1
    status=$?
    seconds=$((SECONDS - begin))
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
mpirun -n 2 "$KTO" train "$name/run.cfg" train.output_dir="$WORK/blocked" "${words[@]}" >"$WORK/log" 2>&1 &
launcher=$!
until compgen -G "$WORK/checkpoints/step-*.h5" >/dev/null || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
mv -T "$WORK/nowhere" "$WORK/blocked/checkpoints"
wait $launcher
status=$?
((status == 1)) || fail "no checkpoint can be written: exit code $status instead of 1"
(($(grep -c 'warning: .*checkpoints.*; no checkpoint at step' "$WORK/log") >= 3)) || fail "no warning of each checkpoint"
(($(grep -c 'kto: error: .*checkpoints' "$WORK/log") == 1)) || fail "not one error"
[[ ! -e $WORK/blocked/adapter ]] || fail "the run looks finished"
rm "$WORK/blocked/checkpoints"
mv "$WORK/checkpoints" "$WORK/blocked/checkpoints"
run_on "$WORK/blocked"
((status == 0)) || fail "when they can be written again: exit code $status"
good "$WORK/blocked" "checkpoints could not be written"
echo "checkpoints that cannot be written: warned, trained on, exit code 1 at the end"

# The folder vanishes.
mpirun -n 2 "$KTO" train "$name/run.cfg" train.output_dir="$WORK/gone" "${words[@]}" >"$WORK/log" 2>&1 &
launcher=$!
until compgen -G "$WORK/gone/checkpoints/step-*.h5" >/dev/null || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
mv "$WORK/gone" "$WORK/moved"
wait $launcher
status=$?
((status == 1)) || fail "the folder vanished: exit code $status instead of 1"
grep -q 'error: .*gone/metrics.h5: was removed or replaced' "$WORK/log" || fail "the folder vanished: no clear message"
run_on "$WORK/moved"
((status == 0)) || fail "the folder was moved: exit code $status"
good "$WORK/moved" "the folder was moved"
echo "a folder that vanishes: exit code 1, goes on where it was moved to"

mkdir "$WORK/disk"
mount -t tmpfs -o size=3m none "$WORK/disk" 2>/dev/null || {
    echo "skipped: full and read-only disks, for which this test must be allowed to mount"
    exit 0
}
trap 'umount -l "$WORK/disk"; rm -rf "$WORK"' EXIT

# A disk that fills up in the middle of the run, so that neither checkpoints nor rows fit.
mpirun -n 2 "$KTO" train "$name/run.cfg" train.output_dir="$WORK/disk/run" "${words[@]}" >"$WORK/log" 2>&1 &
launcher=$!
until compgen -G "$WORK/disk/run/checkpoints/step-*.h5" >/dev/null || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
cat /dev/zero >"$WORK/disk/filler" 2>/dev/null
wait $launcher
status=$?
((status == 1)) || fail "a full disk: exit code $status instead of 1"
grep -q 'No space left on device' "$WORK/log" || fail "a full disk: it did not say so"
rm "$WORK/disk/filler"
mount -o remount,size=64m "$WORK/disk"
run_on "$WORK/disk/run"
((status == 0)) || fail "with room again: exit code $status"
good "$WORK/disk/run" "the disk was full"
echo "a full disk: exit code 1, goes on with room again"

mount -o remount,ro "$WORK/disk"
run_on "$WORK/disk/new"
((status == 1)) || fail "a read-only disk: exit code $status instead of 1"
grep -q 'error: .*Read-only file system' "$WORK/log" || fail "a read-only disk: it did not say so"
(($(grep -c 'kto: error' "$WORK/log") == 1)) || fail "a read-only disk: more than one message"
echo "a read-only disk: exit code 1 after $seconds s"
