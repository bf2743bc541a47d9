#!/usr/bin/env bash
# unlike.sh: machines whose copies of a file differ are refused with one message: ranks in two folders as two machines.
. "$(dirname "$0")/common.sh"
failures=0
for folder in a b; do
    mkdir "$WORK/$folder"
    cp -r tiny-model b/rows.jsonl "$WORK/$folder"
    cat >"$WORK/$folder/run.cfg" <<'END'
model: { path = "tiny-model"; dtype = "float32"; };
data:  { train = "rows.jsonl"; };
train: { output_dir = "run"; global_batch_size = 4; max_steps = 1; };
device: { backend = "cpu"; };
END
done

# unlike NAME MESSAGE COMMAND...: of the two ranks.
unlike() {
    local name=$1 message=$2 status
    shift 2
    mpirun -n 1 -wdir "$WORK/a" "$KTO" "$@" : -n 1 -wdir "$WORK/b" "$KTO" "$@" >"$WORK/log" 2>&1
    status=$?
    ((status == 2)) && [[ $(grep -c 'kto: error' "$WORK/log") -eq 1 ]] && grep -qE "kto: error: $message" "$WORK/log" && return
    echo "$name: exit code $status"
    cat "$WORK/log"
    failures=$((failures + 1))
}
hash='[0-9a-f]{16}'
sed -i 's/global_batch_size = 4/global_batch_size = 2/' "$WORK/b/run.cfg"
unlike configurations "rank 0 has a configuration of hash $hash, but rank 1 has a configuration of hash $hash; give" train run.cfg
cp "$WORK/a/run.cfg" "$WORK/b/run.cfg"
printf 'x' | dd of="$WORK/b/tiny-model/model.safetensors" bs=1 conv=notrunc status=none \
    seek=$(($(stat -c %s "$WORK/b/tiny-model/model.safetensors") - 3))
unlike weights "rank 0 has base weights of hash $hash, but rank 1 has base weights of hash $hash; give" train run.cfg
exit $((failures > 0))
