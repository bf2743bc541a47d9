#!/usr/bin/env bash
# counts.sh: rows of lognormal lengths, so that every batch has another count of tokens. After two steps cuBLASLt's heuristic is
# asked nothing more, and each product still runs on an algorithm that was checked for its count.
. "$(dirname "$0")/../runs/common.sh"

# 104 rows of the words of golden run b's prompts: lengths are exp(normal), by Box and Muller (1958).
grep -oE '[a-z]{3,}' b/rows.jsonl | sort -u >"$WORK/words"
awk 'BEGIN { srand(7); pi = atan2(0, -1) }
    { word[NR] = $0 }
    function normal() { return sqrt(-2 * log(1 - rand())) * cos(2 * pi * rand()) }
    function text(median, n, words) {
        n = int(median * exp(0.8 * normal())) + 1
        for (words = word[1 + int(rand() * NR)]; --n > 0;) words = words " " word[1 + int(rand() * NR)]
        return words
    }
    END {
        for (row = 0; row < 104; row++)
            printf "{\"prompt\": \"%s\", \"completion\": \"%s\", \"label\": %s}\n", text(8), text(5), row % 2 ? "true" : "false"
    }' "$WORK/words" >"$WORK/rows.jsonl"

for steps in 2 26; do
    KTO_STANDIN_COUNTS=$WORK/$steps train b 1 "$WORK/run-$steps" device.backend=cuda model.dtype=bfloat16 lora.dropout=0.1 \
        data.train="$WORK/rows.jsonl" data.eval= train.eval_steps=0 data.max_length=128 train.global_batch_size=4 train.max_steps=$steps
    grep '^warm-up' "$WORK/log" || exit 1
done
count() { awk -v name="$2" '$1 == name { n = $2 } END { print n + 0 }' "$WORK/$1"; }
for name in cublasLtMatmul cublasLtMatmulAlgoCheck cublasLtMatmulAlgoGetHeuristic; do
    echo "$name: $(count 2 $name) in 2 steps, $(count 26 $name) in 26"
done
asked=$(count 2 cublasLtMatmulAlgoGetHeuristic)
((asked > 0 && asked == $(count 26 cublasLtMatmulAlgoGetHeuristic))) || exit 1
# The lengths did vary: most steps have counts that no step before had.
(($(count 26 cublasLtMatmulAlgoCheck) > 5 * $(count 2 cublasLtMatmulAlgoCheck)))
