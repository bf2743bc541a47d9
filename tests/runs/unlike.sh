#!/usr/bin/env bash
# unlike.sh: machines whose copies of a file differ are refused with one message, but for the adapter to start from, which is
# rank 0's: ranks in two folders as two machines.
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
unlike configurations "rank 0 has train.global_batch_size = 4, but rank 1 has train.global_batch_size = 2; give" train run.cfg
cp "$WORK/a/run.cfg" "$WORK/b/run.cfg"
printf 'x' | dd of="$WORK/b/tiny-model/model.safetensors" bs=1 conv=notrunc status=none \
    seek=$(($(stat -c %s "$WORK/b/tiny-model/model.safetensors") - 3))
unlike weights "rank 0 has base weights of hash $hash, but rank 1 has base weights of hash $hash; give" train run.cfg
cp "$WORK/a/tiny-model/model.safetensors" "$WORK/b/tiny-model"

for folder in a b; do
    cp -r b/adapter_start "$WORK/$folder"
    sed -i 's/^train:/lora: { r = 4; alpha = 8.0; target_modules = "all-linear"; init = "adapter_start"; };\ntrain:/' "$WORK/$folder/run.cfg"
done
together() { # FOLDER OUTPUT_DIR: the second rank works in FOLDER
    local kto=("$KTO" train run.cfg train.output_dir="$WORK/$2")
    mpirun -n 1 -wdir "$WORK/a" "${kto[@]}" : -n 1 -wdir "$WORK/$1" "${kto[@]}" >"$WORK/log" 2>&1 && return
    cat "$WORK/log"
    failures=$((failures + 1))
}
together a alike
cp b/adapter_final.safetensors "$WORK/b/adapter_start/adapter_model.safetensors"
together b stale
cmp "$WORK/alike/adapter/adapter_model.safetensors" "$WORK/stale/adapter/adapter_model.safetensors" || failures=$((failures + 1))
exit $((failures > 0))
