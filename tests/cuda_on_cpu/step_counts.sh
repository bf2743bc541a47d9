#!/usr/bin/env bash
# step_counts.sh TARGETS LAUNCHES MEMSETS [key=value ...]: a training step of a model with TinyLlama's 22 layers, the
# reference cached, starts at most LAUNCHES kernels (a product counts as one) and MEMSETS memsets. Widths do not matter.
# What a step takes is what a run of three steps takes more than one of two; no step allocates device memory.
. "$(dirname "$0")/../runs/common.sh"
targets=$1 launches=$2 memsets=$3
shift 3
repository=$(cd "$GOLDEN/../.." && pwd)
cd "$WORK" || exit 1
"$(dirname "$KTO")/make_random_model" model --tokenizer "$repository/configs/demo/model/tokenizer.model" \
    --layers 22 --hidden 32 --intermediate 48 --heads 2 --kv-heads 1 --vocab 1280 >log || { cat log; exit 1; }
for ((row = 0; row < 12; row++)); do
    echo '{"prompt": "the paper needs '"$row"' new figures", "completion": " a better study", "label": '"$([[ $((row % 2)) == 0 ]] && echo true || echo false)"'}'
done >rows.jsonl

kto() { # COMMAND COUNTS [key=value ...]
    local command=$1 counts=$2
    shift 2
    KTO_STANDIN_COUNTS=$counts "$KTO" "$command" run.cfg data.train=rows.jsonl model.path=model data.order=sequential \
        model.dtype=bfloat16 train.global_batch_size=4 data.reference_cache=reference.h5 device.backend=cuda \
        device.comm=mpi lora.target_modules="$targets" "$@" >log 2>&1 || { cat log; exit 1; }
}
: >run.cfg
kto reference /dev/null train.output_dir=reference "$@"
for steps in 2 3; do kto train "$steps.counts" train.output_dir="run-$steps" train.max_steps=$steps "$@"; done

# NAME COUNT of one step.
awk 'NR == FNR { before[$1] = $2; next } $2 > before[$1] { print $1, $2 - before[$1] }' 2.counts 3.counts >step
cat step
awk -v launches="$launches" -v memsets="$memsets" '
    $1 == "launch" || $1 == "cublasLtMatmul" { started += $2 }
    $1 ~ /^cudaMemset/ { cleared += $2 }
    $1 ~ /^cudaMalloc/ { allocated += $2 }
    END {
        printf "%d launches (at most %d), %d memsets (at most %d), %d allocations\n", started, launches, cleared, memsets, allocated
        exit !(started > 0 && started <= launches && cleared <= memsets && allocated == 0)
    }' step
