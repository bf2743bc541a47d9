#!/usr/bin/env bash
# gpus.sh: which device a run takes and how its ranks share it, on the stand-in's GPUs (KTO_MODULE_DIR): what is refused is
# refused before training in one line and with the right exit code; what goes on, goes on.
. "$(dirname "$0")/common.sh"
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
short=(train.output_dir="$WORK/run" train.max_steps=1 train.eval_steps=0)

# expect CODE RANKS WORDS [key=value ...]: the exit code, and WORDS (an extended expression) in one line of what was printed,
# or in one of each rank where ranks fail on their own (LINES_MOST).
expect() {
    local code=$1 ranks=$2 words=$3
    shift 3
    rm -rf "$WORK/run"
    timeout 120 mpirun -n "$ranks" "$KTO" train b/run.cfg "${short[@]}" "$@" >"$WORK/log" 2>&1
    local status=$?
    ((status == code)) || fail "$ranks ranks, $*: exit code $status, expected $code"
    local lines
    lines=$(grep -cE "$words" "$WORK/log")
    ((lines >= 1 && lines <= ${LINES_MOST:-1})) || fail "$ranks ranks, $*: not one line with \"$words\""
}

# Two ranks on one GPU.
shared='ranks 0 and 1 on .* share one GPU \(0000:01:00\.0\).*--gpus.*fewer ranks.*device\.comm = "mpi"'
export KTO_STANDIN_DEVICES=1
expect 2 2 "error: $shared" device.backend=cuda device.comm=nccl
expect 0 2 "over MPI, through the host, because: $shared" device.backend=cuda device.comm=auto
expect 0 2 'gradients summed over MPI$' device.backend=cuda device.comm=mpi

# A GPU a rank, taken in turn; "auto" finds them.
export KTO_STANDIN_DEVICES=2
expect 0 2 'gradients summed by NCCL$' device.backend=auto device.comm=auto
expect 0 3 'ranks 0 and 2 on .* share one GPU' device.backend=cuda device.comm=auto
export KTO_STANDIN_DEVICES=1

# NCCL that fails while training: its own words, and the job ends.
LINES_MOST=2 KTO_STANDIN_DEVICES=2 KTO_STANDIN_FAIL=ncclAllReduce:1 \
    expect 1 2 'error: NCCL: ncclAllReduce: .*launch failure' device.backend=cuda device.comm=nccl device.timeout_seconds=20
LINES_MOST=2 KTO_STANDIN_DEVICES=2 KTO_STANDIN_FAIL=ncclAllReduce:1 KTO_STANDIN_ABORT_HANGS=1 \
    expect 1 2 'error: NCCL: ncclAllReduce: .*launch failure' device.backend=cuda device.comm=nccl device.timeout_seconds=20

# Without NCCL's module, and without any.
mkdir "$WORK/modules"
ln -s "$KTO_MODULE_DIR/kto_cuda.so" "$KTO_MODULE_DIR/libkto_standin.so" "$WORK/modules/" # which looks beside itself
KTO_STANDIN_DEVICES=2 KTO_MODULE_DIR=$WORK/modules \
    expect 2 2 'error: NCCL: .*kto_nccl\.so is not there.*device\.comm = "mpi"' device.backend=cuda device.comm=nccl
KTO_STANDIN_DEVICES=2 KTO_MODULE_DIR=$WORK/modules \
    expect 0 2 'over MPI, through the host, because: .*kto_nccl\.so is not there' device.backend=cuda device.comm=auto
KTO_MODULE_DIR=$WORK expect 2 1 'error: the CUDA device: .*kto_cuda\.so is not there; .*KTO_CUDA' device.backend=cuda
KTO_MODULE_DIR=$WORK expect 0 1 '^device .*CPU' device.backend=auto
expect 2 2 'error: device\.comm = "nccl" sums on GPUs' device.backend=cpu device.comm=nccl

# A machine without a GPU: refused by "cuda", the CPU by "auto", which says why.
KTO_STANDIN_DEVICES=0 expect 1 1 'error: this machine has no GPU .*; device\.backend = "cpu" computes on the CPU' device.backend=cuda
KTO_STANDIN_DEVICES=0 expect 0 1 '^device .*the CPU, because: .*no GPU' device.backend=auto

# Ranks that are not alike: devices, the configuration, weights. differ SETTING SETTING WORDS: what env sets for rank 0 and for rank 1.
differ() {
    rm -rf "$WORK/run"
    timeout 120 mpirun -n 1 env "$1" "$KTO" train b/run.cfg "${short[@]}" "${alike[@]}" "${first[@]}" : \
        -n 1 env "$2" "$KTO" train b/run.cfg "${short[@]}" "${alike[@]}" "${second[@]}" >"$WORK/log" 2>&1
    local status=$?
    ((status == 2)) || fail "rank 0 with $1, rank 1 with $2: exit code $status, expected 2"
    grep -qE "$3" "$WORK/log" || fail "rank 0 with $1, rank 1 with $2: no line with \"$3\""
}
alike=(device.backend=auto) first=() second=()
differ KTO_STANDIN_DEVICES=2 KTO_STANDIN_DEVICES=0 'error: rank 0 has Stand-in GPU.* but rank 1 has the CPU in float32'
differ KTO_STANDIN_CAPABILITY=89 KTO_STANDIN_CAPABILITY=80 'error: rank 0 has .* 8\.9.* but rank 1 has .* 8\.0'
first=(model.dtype=float32) second=(model.dtype=bfloat16)
differ KTO_STANDIN_DEVICES=2 KTO_STANDIN_DEVICES=2 'error: rank 0 has model\.dtype = "float32", but rank 1 has model\.dtype = "bfloat16"'
cp -r tiny-model "$WORK/model"
printf '\x3d' | dd of="$WORK/model/model.safetensors" bs=1 seek="$(($(stat -c %s tiny-model/model.safetensors) - 1))" conv=notrunc 2>/dev/null
alike=(device.backend=cpu device.comm=mpi) first=() second=(model.path="$WORK/model")
differ OMP_NUM_THREADS=1 OMP_NUM_THREADS=1 'error: rank 0 has base weights of hash .* but rank 1 has base weights'

# Memory: a budget that cannot fit is refused before training, and a chosen one fits; where it runs out all the same, the
# message says what to set.
KTO_STANDIN_MEMORY_MIB=25 expect 2 1 'error: train\.micro_batch_tokens = 9999: .*set at most [1-9][0-9]*,' \
    device.backend=cuda train.micro_batch_tokens=9999 train.global_batch_size=59
KTO_STANDIN_MEMORY_MIB=25 expect 0 1 'scratch [0-9]* MiB on this rank \(micro_batch_tokens 1[0-9]{3}\)' \
    device.backend=cuda train.global_batch_size=59
activations='no room for .* MiB of activations: .*micro_batch_tokens' advised=0
for ((call = 1; ; call++)); do # each allocation of a run in turn
    rm -rf "$WORK/run"
    KTO_STANDIN_FAIL=cudaMalloc:$call "$KTO" train b/run.cfg "${short[@]}" device.backend=cuda >"$WORK/log" 2>&1
    status=$?
    ((status == 0)) && break
    ((status == 1)) && [[ $(grep -cE 'error: Stand-in GPU \(GPU 0\): .*(no room for|out of memory)' "$WORK/log") -eq 1 ]] ||
        fail "allocation $call fails: exit code $status"
    advised=$((advised + $(grep -cE "$activations" "$WORK/log")))
done
((call > 1 && advised > 0)) || fail "$call allocations, and none of activations"

# A run goes on with the budget that it was begun with, on a device of any memory: same bits, and memory is planned for it.
budget() { grep -oE 'micro_batch_tokens [0-9]+' "$WORK/log" | head -n 1; }
words=(device.backend=cuda train.global_batch_size=59 train.max_steps=3 train.eval_steps=0 train.save_steps=1 train.save_total_limit=9)
KTO_STANDIN_MEMORY_MIB=25 train b 1 "$WORK/whole" "${words[@]}"
begun=$(budget)
cp -r "$WORK/whole" "$WORK/moved"
rm -r "$WORK/moved/adapter" "$WORK/moved/checkpoints/step-000002.h5" "$WORK/moved/checkpoints/step-000003.h5"
cp -r "$WORK/moved" "$WORK/small"
KTO_STANDIN_MEMORY_MIB=2048 train b 1 "$WORK/moved" "${words[@]}"
[[ $(budget) == "$begun" ]] || fail "begun with $begun, went on with $(budget)"
"$COMPARE_RUNS" same "$WORK/whole" "$WORK/moved" || fail "the run that went on with more memory has other bits"
KTO_STANDIN_MEMORY_MIB=17 "$KTO" train b/run.cfg train.output_dir="$WORK/small" "${words[@]}" >"$WORK/log" 2>&1
status=$?
((status == 2)) && grep -qE "error: train\.micro_batch_tokens = ${begun#* }: .*has room for" "$WORK/log" ||
    fail "going on with less memory than the budget takes: exit code $status"
exit 0
