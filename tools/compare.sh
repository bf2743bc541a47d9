#!/usr/bin/env bash
# compare.sh [--seeds N] [--jobs N] [--tune]: KTO against DPO on the same pairs, and on pairs of which a fifth is flipped
# (chosen and rejected swapped). Writes the figures into docs/kto-vs-dpo.md, between its <!-- --> marks; the words around
# them are a person's. DPO takes the pairs as they are; KTO takes the same file, each pair as two rows of its own.
#
# --tune first tries the same grid of learning rates and betas for both losses, on the unflipped pairs, with a seed and
# titles that the comparison does not use, and takes each loss's best (`best`, below). Without it the settings are those
# that were found so.
#
# Runs are kept in runs/compare and not repeated; remove the folder to start anew. Needs the demo's files and no Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=runs/compare demo=configs/demo page=docs/kto-vs-dpo.md
rates=(3e-4 1e-3 3e-3 1e-2) betas=(1 3 10 30)       # tried by --tune
flipped_rates=(3e-4 1e-3) flipped_betas=(0.3 1 3)   # and these on flipped labels, only to be shown
tune_seed=1000 steps=126 every=18             # two passes over 1,000 pairs, 32 answers a step

# What --tune chose: learning rate and beta of LOSS.
settings() {
    case $1 in
    kto) echo 3e-3 1 ;;
    dpo) echo 3e-3 10 ;;
    esac
}

jobs=$(nproc) # before the next line, which it would follow
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
if ((EUID == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# flip SEED: a fifth of the pairs, drawn by SEED, with their answers swapped. (Park and Miller's generator: the same draw
# with any awk.)
flip() {
    awk -v seed="$1" '
        function draw(n) { x = (x * 16807) % 2147483647; return 1 + int(n * x / 2147483647) }
        { line[NR] = $0; order[NR] = NR }
        END {
            x = 1 + seed % 2147483646
            for (i = 1; i <= 10; i++) draw(1)
            for (i = 1; i <= NR / 5; i++) {
                j = i - 1 + draw(NR - i + 1)
                t = order[i]; order[i] = order[j]; order[j] = t
                k = order[i]
                sub(/"chosen":/, "\"flipped\":", line[k])
                sub(/"rejected":/, "\"chosen\":", line[k])
                sub(/"flipped":/, "\"rejected\":", line[k])
            }
            for (i = 1; i <= NR; i++) print line[i]
        }' $demo/pairs.jsonl
}

# shares RUN SAMPLES: "scathing wellformed" of what was sampled.
shares() {
    build/demo_report "$1" $out/base.jsonl "$2" $demo/grammar.txt | tail -n 1 |
        sed 's/.*"scathing_after": \([^,]*\),.*"wellformed_after": \([^,]*\),.*/\1 \2/'
}

# run LOSS DATA SEED RATE BETA DIR PROMPTS ANSWERS [key=value ...]: trains unless that is done, then samples ANSWERS
# reviews for each title of PROMPTS; DIR/shares gets theirs.
run() {
    local loss=$1 data=$2 seed=$3 rate=$4 beta=$5 dir=$6 prompts=$7 answers=$8 rows=$demo/pairs.jsonl batch=32
    shift 8
    [[ -s $dir/shares ]] && return
    rm -rf "$dir"
    [[ $data == flipped ]] && rows=$out/flipped-$seed.jsonl
    [[ $loss == dpo ]] && batch=16 # pairs: as many answers
    if ! build/kto train $demo/demo.cfg data.train="$rows" data.eval= train.eval_steps=0 kto.loss_type="$loss" \
        kto.beta="$beta" train.learning_rate="$rate" train.seed="$seed" train.global_batch_size=$batch \
        train.output_dir="$dir" train.max_steps=$steps "$@" 2>"$dir.log"; then
        cat "$dir.log" >&2
        exit 1
    fi
    mv "$dir.log" "$dir/log"
    build/kto sample "$dir" --prompts "$prompts" --temperature 1 --n "$answers" --seed "$seed" --max-tokens 64 \
        >"$dir/answers.jsonl" 2>/dev/null
    shares "$dir" "$dir/answers.jsonl" >"$dir/shares"
    rm -rf "$dir/checkpoints"
    echo "compare: $dir: scathing, well-formed $(cat "$dir/shares")" >&2
}

# curve DIR: "step scathing wellformed" of the answers made while training, into DIR/curve.
curve() {
    local dir=$1 step
    [[ -s $dir/curve ]] && return
    for ((step = every; step <= steps; step += every)); do
        grep "\"step\": ${step}[,}]" "$dir/samples.jsonl" >"$dir/step.jsonl"
        echo "$step $(shares "$dir" "$dir/step.jsonl")"
    done >"$dir/curve"
    rm "$dir/step.jsonl"
}

if [[ ${1:-} == --one ]]; then # of xargs
    shift
    run "$@"
    [[ -e $6/samples.jsonl ]] && curve "$6"
    exit 0
fi

seeds=5 tune=
while (($# > 0)); do
    case $1 in
    --seeds) seeds=$2 && shift 2 ;;
    --jobs) jobs=$2 && shift 2 ;;
    --tune) tune=1 && shift ;;
    *) echo "compare: $1: compare.sh takes [--seeds N] [--jobs N] [--tune]" >&2 && exit 2 ;;
    esac
done
tools/setup.sh kto demo_report
mkdir -p $out
# One line of arguments a run on standard input.
all() { xargs -P "$jobs" -L 1 tools/compare.sh --one; }
[[ -s $out/base.jsonl ]] ||
    build/kto sample $demo/demo.cfg --base --prompts $demo/titles.jsonl --temperature 1 --n 3 --max-tokens 64 >$out/base.jsonl 2>/dev/null

# --- learning rate and beta -------------------------------------------------------------------------------------------

tried() { echo $out/tune-"$1"-"$2"-"$3"-"$4"; } # LOSS DATA RATE BETA

if [[ $tune ]]; then
    flip $tune_seed >$out/flipped-$tune_seed.jsonl
    for loss in kto dpo; do
        for rate in "${rates[@]}"; do
            for beta in "${betas[@]}"; do
                echo $loss clean $tune_seed "$rate" "$beta" "$(tried $loss clean "$rate" "$beta")" $demo/eval.jsonl 2
            done
        done
        for rate in "${flipped_rates[@]}"; do
            for beta in "${flipped_betas[@]}"; do
                echo $loss flipped $tune_seed "$rate" "$beta" "$(tried $loss flipped "$rate" "$beta")" $demo/eval.jsonl 2
            done
        done
    done | all
fi

# The settings, as `settings` gives them: of those within one standard error (of 400 reviews) of the most scathing ones
# the lowest learning rate, and there the most scathing again, then the smaller beta.
best() { # LOSS
    local rate beta
    for rate in "${rates[@]}"; do
        for beta in "${betas[@]}"; do
            echo "$(cut -d' ' -f1 "$(tried "$1" clean "$rate" "$beta")/shares") $rate $beta"
        done
    done | awk '
        { share[NR] = $1; rate[NR] = $2; beta[NR] = $3; if ($1 > most) most = $1 }
        END {
            least = most - sqrt(most * (1 - most) / 400)
            for (i = 1; i <= NR; i++) {
                if (share[i] < least - 1e-9) continue
                if (!b || rate[i] + 0 < rate[b] + 0 || (rate[i] == rate[b] && share[i] > share[b])) b = i
            }
            print rate[b], beta[b]
        }'
}
chosen() { if [[ $tune ]]; then best "$@"; else settings "$@"; fi; }

# print_grid LOSS DATA "RATES" "BETAS": scathing / well-formed, in percent.
print_grid() {
    local rate beta rates betas
    read -r -a rates <<<"$3"
    read -r -a betas <<<"$4"
    printf '\n| learning rate |'
    printf ' beta %s |' "${betas[@]}"
    printf '\n|---|'
    printf '%s' "${betas[@]/*/---|}"
    for rate in "${rates[@]}"; do
        printf '\n| %s |' "$rate"
        for beta in "${betas[@]}"; do
            awk '{ printf " %.1f / %.1f |", 100 * $1, 100 * $2 }' "$(tried "$1" "$2" "$rate" "$beta")/shares"
        done
    done
    echo
}
# Learning rate and beta are two words on purpose.
# shellcheck disable=SC2046
print_tuning() {
    local loss
    for loss in kto dpo; do
        printf '\n%s; taken: learning rate %s, beta %s\n' ${loss^^} $(best $loss)
        print_grid $loss clean "${rates[*]}" "${betas[*]}"
    done
}
print_flipped_tuning() {
    local loss
    for loss in kto dpo; do
        printf '\n%s\n' ${loss^^}
        print_grid $loss flipped "${flipped_rates[*]}" "${flipped_betas[*]}"
    done
}

# --- the comparison ---------------------------------------------------------------------------------------------------

compared() { echo $out/"$1"-"$2"-"$3"-"$4"-"$5"; } # LOSS DATA SEED RATE BETA

for ((seed = 1; seed <= seeds; seed++)); do
    flip $seed >$out/flipped-$seed.jsonl
    for data in clean flipped; do
        for loss in kto dpo; do
            read -r rate beta < <(chosen $loss)
            echo $loss $data $seed "$rate" "$beta" "$(compared $loss $data $seed "$rate" "$beta")" $demo/titles.jsonl 3 \
                train.sample_prompts=$demo/eval.jsonl train.sample_steps=$every
        done
    done
done | all

# of LOSS DATA FILE: that file of all seeds.
of() {
    local seed rate beta
    read -r rate beta < <(chosen "$1")
    for ((seed = 1; seed <= seeds; seed++)); do cat "$(compared "$1" "$2" $seed "$rate" "$beta")/$3"; done
}

# shellcheck disable=SC2046
print_table() {
    local loss data
    printf '| labels | loss | learning rate | beta | scathing, %% | well-formed, %% |\n|---|---|---|---|---|---|\n'
    printf '| | before training | | | %s |\n' "$(shares "$(compared kto clean 1 $(chosen kto))" $out/base.jsonl |
        awk '{ printf "%.1f | %.1f", 100 * $1, 100 * $2 }')"
    for data in clean flipped; do
        for loss in kto dpo; do
            printf '| %s | %s | %s | %s | %s |\n' $data ${loss^^} $(chosen $loss) "$(of $loss $data shares | awk '
                { for (i = 1; i <= 2; i++) { s[i] += $i; q[i] += $i * $i; if (NR == 1 || $i < low[i]) low[i] = $i
                                              if ($i > high[i]) high[i] = $i } }
                END { for (i = 1; i <= 2; i++) {
                          v = NR > 1 ? (q[i] - s[i] * s[i] / NR) / (NR - 1) : 0
                          printf "%s%.1f ± %.1f (%.1f to %.1f)", (i > 1 ? " | " : ""), 100 * s[i] / NR,
                                 100 * sqrt(v > 0 ? v : 0), 100 * low[i], 100 * high[i] } }')"
        done
    done
}

# K: KTO, D: DPO, *: both; the mean over the seeds of the share of scathing reviews.
print_plot() { # DATA
    { of kto "$1" curve | sed 's/^/K /' && of dpo "$1" curve | sed 's/^/D /'; } | awk -v every=$every -v steps=$steps '
        { sum[$1, $2] += $3; n[$1, $2]++ }
        END {
            for (row = 20; row >= 0; row--) {
                line = ""
                for (s = every; s <= steps; s += every) {
                    k = int(20 * sum["K", s] / n["K", s] + 0.5); d = int(20 * sum["D", s] / n["D", s] + 0.5)
                    line = line "   " (k == row && d == row ? "*" : k == row ? "K" : d == row ? "D" : " ")
                }
                printf "    %5s |%s\n", row % 4 == 0 ? 5 * row " %" : "", line
            }
            line = ""
            for (s = every; s <= steps; s += every) line = line sprintf("%4d", s)
            print "     step  " line
        }'
}

print_curves() {
    local data
    for data in clean flipped; do
        printf '\nScathing, %s labels (K: KTO, D: DPO, *: both)\n\n' $data
        print_plot $data
        printf '\n| step |'
        seq $every $every $steps | sed 's/.*/ & |/' | tr -d '\n'
        printf '\n|---|'
        seq $every $every $steps | sed 's/.*/---|/' | tr -d '\n'
        echo
        for loss in kto dpo; do
            of $loss $data curve | awk -v name=${loss^^} -v every=$every -v steps=$steps '
                { for (i = 2; i <= 3; i++) sum[i, $1] += $i; n[$1]++ }
                END { for (i = 2; i <= 3; i++) {
                          printf "| %s, %s |", name, i == 2 ? "scathing" : "well-formed"
                          for (s = every; s <= steps; s += every) printf " %.1f |", 100 * sum[i, s] / n[s]
                          print "" } }'
        done
    done
}

# shellcheck disable=SC2046
print_tokens() {
    local loss
    printf '| loss | tokens computed a step, for 32 answers |\n|---|---|\n'
    for loss in kto dpo; do
        printf '| %s | %s |\n' ${loss^^} \
            "$(sed -n 's/.*batches  *\([0-9]*\) tokens a step.*/\1/p' "$(compared $loss clean 1 $(chosen $loss))/log")"
    done
}

# replace MARK: what stands between <!-- MARK --> and <!-- /MARK --> in the page, by standard input.
replace() {
    cat >$out/section
    awk -v mark="$1" -v file=$out/section '
        $0 == "<!-- /" mark " -->" { hidden = 0 }
        !hidden { print }
        $0 == "<!-- " mark " -->" { while ((getline line < file) > 0) print line; hidden = 1 }' $page >$out/page
    cp $out/page $page
}
if [[ $tune ]]; then
    print_tuning | replace tuning
    print_flipped_tuning | replace flipped-tuning
fi
print_table | replace table
print_curves | replace curves
print_tokens | replace tokens
print_table
