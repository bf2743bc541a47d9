#!/usr/bin/env bash
# devices.sh: GPUs that cannot be used, and one that is lost in the middle of a run, on the stand-in (KTO_MODULE_DIR): one
# message with the device's name, the right exit code, no rank left behind, and the last checkpoint goes on.
. "$(dirname "$0")/common.sh"
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
cuda=(device.backend=cuda device.timeout_seconds=10)

# refuse CODE WORDS [key=value ...]: one line with WORDS on two ranks, before anything is written.
refuse() {
    local code=$1 words=$2
    shift 2
    mpirun -n 2 "$KTO" train b/run.cfg train.output_dir="$WORK/refused" "${cuda[@]}" "$@" >"$WORK/log" 2>&1
    local status=$?
    ((status == code)) || fail "$words: exit code $status, expected $code"
    (($(grep -cE "$words" "$WORK/log") == 1)) || fail "not one line with \"$words\""
    compgen -G "$WORK/refused/checkpoints/*" >/dev/null && fail "$words: a checkpoint was written"
    return 0
}
KTO_STANDIN_DEVICES=0 refuse 1 'error: this machine has no GPU .*; device\.backend = "cpu" computes on the CPU'
KTO_STANDIN_DRIVER=12010 refuse 1 'error: .*the driver takes CUDA 12\.1, this program was built with .*update the driver'
KTO_STANDIN_DRIVER=0 refuse 1 'error: .*no NVIDIA driver is loaded'
KTO_STANDIN_CAPABILITY=75 refuse 1 'error: Stand-in GPU \(GPU [01]\) has compute capability 7\.5; .*needs 8\.0 or newer'
KTO_STANDIN_MEMORY_MIB=1 refuse 1 'error: Stand-in GPU \(GPU [01]\): .*out of memory; does another program'
KTO_STANDIN_FAIL=cudaMalloc:6 refuse 1 'error: Stand-in GPU \(GPU [01]\): no room for .* MiB of weights: .*bfloat16'

# Lost while it trains, on one rank and on two: within the time limit, the checkpoints before it stay and are gone on from.
steps=(train.max_steps=10 train.save_steps=2 train.save_total_limit=100)
train b 2 "$WORK/whole" "${cuda[@]}" device.comm=nccl "${steps[@]}"
for lost in one both; do
    failure=launch:400
    other=$failure
    [[ $lost == both ]] || other=never:1
    start=$(date +%s)
    mpirun -n 1 env KTO_STANDIN_FAIL="$failure" "$KTO" train b/run.cfg train.output_dir="$WORK/$lost" \
        "${cuda[@]}" device.comm=nccl "${steps[@]}" : -n 1 env KTO_STANDIN_FAIL="$other" "$KTO" train \
        b/run.cfg train.output_dir="$WORK/$lost" "${cuda[@]}" device.comm=nccl "${steps[@]}" >"$WORK/log" 2>&1
    status=$? took=$(($(date +%s) - start))
    ((status == 1)) || fail "a lost GPU ($lost): exit code $status, expected 1"
    grep -qE 'error: Stand-in GPU \(GPU 0\): .*cudaErrorLaunchFailure.*lost to this run, which goes on from its last checkpoint' \
        "$WORK/log" || fail "a lost GPU ($lost): its message is missing"
    pgrep -f -- "train.output_dir=$WORK/$lost" && fail "a lost GPU ($lost): a rank is left"
    compgen -G "$WORK/$lost/checkpoints/step-*.h5" >/dev/null || fail "a lost GPU ($lost): no checkpoint is left"
    echo "a lost GPU ($lost): all ended $took s after the start, left $(ls "$WORK/$lost/checkpoints")"
    train b 2 "$WORK/$lost" "${cuda[@]}" device.comm=nccl "${steps[@]}"
    grep -q 'resume .*step-0' "$WORK/log" || fail "a lost GPU ($lost): the run did not resume"
    "$COMPARE_RUNS" same "$WORK/whole" "$WORK/$lost" 2>"$WORK/log" || fail "a lost GPU ($lost): other bits after resuming"
done
exit 0
