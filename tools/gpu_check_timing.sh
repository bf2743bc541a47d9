# shellcheck shell=bash
# The timing steps of tools/gpu_check, which sources this: its row sets and cases, and what is measured of them. What needs
# no GPU runs in a rehearsal too, on shapes so small that it takes seconds.

# --- models, rows and cases ---

timed=$out/timed
# NAME ROWS MODEL ADAPTER BATCH STEPS MAX_LENGTH. Steps after the 20th of "real" have met most shapes before.
cases='plain    plain  tinyllama qv  16 10  512
header   header tinyllama qv  16 10  512
real     real   tinyllama qv  16 30 1024
real-all real   tinyllama all 16 30 1024
long     long   tinyllama qv   8  6 2048
big      big    tinyllama all 64  6 1024
wide     real   wide      all 16 10 1024'
case_names=(plain header real real-all long big wide)
if ((rehearsal)); then
    cases=$(awk '$1 != "plain" && $1 != "header" { $5 = $1 == "big" ? 6 : 4 } { $6 = 2; print }' <<<"$cases")
fi
# case_is NAME: sets what the line says.
case_is() {
    read -r _ rows model adapter batch case_steps max_length < <(grep "^$1 " <<<"$cases")
}

# Random weights in TinyLlama's shape, and in the width of an 8B model with a few layers.
model_words() { # MODEL
    if ((rehearsal)); then
        echo --layers 2 --hidden 32 --intermediate 48 --heads 2 --kv-heads 1 --vocab 1280
    elif [[ $1 == wide ]]; then
        echo --layers 6 --hidden 4096 --intermediate 14336 --heads 32 --kv-heads 8
    else
        echo --layers "$layers"
    fi
}
make_model() { # MODEL
    local folder=$timed/$1 words
    words=$(model_words "$1")
    [[ -e $folder/tokenizer_config.json && $(cat "$folder.words" 2>/dev/null) == "$words" ]] && return
    rm -rf "$folder" "$timed"/*.reference
    # shellcheck disable=SC2086 # words
    within "$folder.log" "$build/make_random_model" "$folder" --tokenizer configs/demo/model/tokenizer.model $words || {
        fail "model $1" "$(tail -n 1 "$folder.log"); see $folder.log"
        return 1
    }
    echo "$words" >"$folder.words"
}

# Every word is one token of the demo's tokenizer; BOS and </s> are counted. In "plain" and "header" all rows are alike, so that
# TRL has nothing to pad: in "header" the prompts of a batch share their first tokens, in "plain" they begin with different
# words. "real" and "big" have lengths as chat data has them, "long" fills 2,048 tokens.
prompt=82 completion=25 header=64
if ((rehearsal)); then prompt=8 completion=3 header=5; fi
make_rows() { # SET ROWS
    awk -v set="$1" -v rows="$2" -v prompt=$prompt -v completion=$completion -v header=$header -v small=$rehearsal '
        function uniform() { return (state = (state * 16807) % 2147483647) / 2147483647 } # Park and Miller 1988
        function draw() { return word[1 + int(uniform() * words)] }
        function some(first, n,    text, i) { text = first; for (i = 1; i < n; i++) text = text " " draw(); return text }
        function normal() { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()) } # Box and Muller 1958
        function length_of(median, deviation, least, most,    n) {
            n = int(median * exp(deviation * normal()) / (small ? 25 : 1))
            return n < least ? least : n > most ? most : n
        }
        BEGIN {
            words = split("the for with and this paper are through better study learning label reading met before over " \
                "without noise low code improve deserves recognition only was case never than authors detection needs " \
                "could new ideas adds has work use pruning second care long sleep method section table ablation " \
                "introduction languages discussion evaluation appendix beginners proof edge breakfast bad networks " \
                "figure uncertainty labels ten examples laptop real time", word)
            state = 1
            common = some(word[1], header - 1)
            for (row = 0; row < rows; row++) {
                p = prompt - 1
                c = completion - 1
                if (set == "long") p = c = small ? 30 : 1023
                if (set == "real" || set == "big") {
                    p = length_of(100, 0.9, small ? 2 : 10, 512)
                    c = length_of(180, 0.8, small ? 2 : 10, 500)
                }
                first = word[1 + row % words]
                text = set == "header" ? common " " some(first, p + 1 - header) : some(first, p)
                printf "{\"prompt\": \"%s\", \"completion\": \" %s\", \"label\": %s}\n", text, some(draw(), c), \
                    row % 2 == 0 ? "true" : "false"
            }
        }'
}
modules() { # ADAPTER
    if [[ $1 == qv ]]; then echo q_proj,v_proj; else echo q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj; fi
}
rank_of() { if [[ $1 == qv ]]; then echo 8; else echo 16; fi; } # ADAPTER
make_case() { # NAME: model, rows and configuration, and the reference log-probabilities ahead, as TRL has them
    case_is "$1"
    local r names
    r=$(rank_of "$adapter") names=$(modules "$adapter")
    mkdir -p "$timed"
    make_model "$model" || return
    make_rows "$rows" $((case_steps * batch)) >"$timed/$1.jsonl"
    cat >"$timed/$1.cfg" <<END
model: { path = "$timed/$model"; dtype = "bfloat16"; };
data:  { train = "$timed/$1.jsonl"; order = "sequential"; max_length = $max_length; reference_cache = "$timed/$1.reference"; };
lora:  { r = $r; alpha = $((2 * r)).0; target_modules = ["${names//,/\", \"}"]; };
train: { output_dir = "$timed/run-$1"; global_batch_size = $batch; max_steps = $case_steps; };
device: { backend = "$backend"; };
END
    within "$timed/$1.reference.log" "$kto" reference "$timed/$1.cfg" || {
        fail "reference, $1" "$(last_line "$timed/$1.reference.log"); see $timed/$1.reference.log"
        return 1
    }
}

median() { # COLUMN of the lines on standard input
    awk -v column="$1" '{ print $column }' | sort -g | awk '{ v[NR] = $1 }
        END { if (NR) printf "%.6f\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
ratio() { # A B [FACTOR]: a / b times factor, with four digits; nothing without numbers
    awk -v a="$1" -v b="$2" -v factor="${3:-1}" 'BEGIN { if (a + 0 > 0 && b + 0 > 0) printf "%.4g\n", a / b * factor }'
}
# What the steps after the first of a case's last timed run say: the file has STEP SECONDS COMPUTED_TOKENS SCORED_TOKENS.
median_of() { # CASE COLUMN
    median "$2" 2>/dev/null <"$timed/$1.steps"
}
# Whether a case was timed by the step "step", now or by an earlier call.
timed_case() { # CASE WHAT
    [[ -s $timed/$1.steps && -d $timed/run-$1 ]] && return
    skip "$2, $1" "the step \"step\" has not timed it"
    return 1
}
time_is_left() { # SECONDS WHAT
    ((step_end - SECONDS >= $1)) && return
    skip "$2" "no time is left for it"
    return 1
}

# --- steps ---

time_case() { # NAME
    local name=$1 run=$timed/run-$1 sampler='' status seconds tokens expected shared device predicted
    make_case "$name" || return
    rm -rf "$run" "$timed/$name.steps"
    if ((gpus > 0)); then
        nvidia-smi -i 0 --query-gpu=memory.used --format=csv,noheader,nounits -lms 100 >"$timed/memory" 2>/dev/null &
        sampler=$!
    fi
    within "$run.log" "$kto" train "$timed/$name.cfg"
    status=$?
    [[ -n $sampler ]] && kill "$sampler" 2>/dev/null && wait "$sampler" 2>/dev/null
    if ((status != 0)); then
        fail "step, $name" "exit code $status: $(last_line "$run.log"); see $run.log"
        return
    fi
    "$build/bench_steps" "$run/metrics.h5" | tail -n +2 >"$timed/$name.steps"
    seconds=$(median_of "$name" 2) tokens=$(median_of "$name" 3)
    if [[ $name == plain || $name == header ]]; then
        shared=$([[ $name == header ]] && echo $header || echo 1)
        expected=$((shared + batch * (prompt - 1 - shared) + 2 * batch * completion))
        if [[ ${tokens%.*} == "$expected" ]]; then
            pass "step, $name, tokens computed" "$expected"
        else
            fail "step, $name, tokens computed" "$tokens, expected $expected"
        fi
    fi
    check "step, $name, first rewards are 0" "$build/tests/runs/compare_runs" zero-rewards "$run"
    if [[ $name == plain || ($name == real-all && $rehearsal == 0) ]]; then
        if within "$run-again.log" "$kto" train "$timed/$name.cfg" train.output_dir="$run-again"; then
            check "step, $name, twice the same bits" "$build/tests/runs/compare_runs" same "$run" "$run-again"
        else
            fail "step, $name, twice the same bits" "$(last_line "$run-again.log")"
        fi
        rm -rf "$run-again"
    fi
    figure "$name" "$(ratio "$seconds" 1 1000)" ms
    figure "$name, tokens computed" "$(ratio "$tokens" "$seconds")" tokens/s
    [[ -n $sampler ]] && figure "$name, peak memory" "$(sort -n "$timed/memory" | tail -n 1)" MiB
    device=$(gpu_query name | tr '[:upper:]' '[:lower:]' | grep -oE '\b(l4|l40s|a10|a100|h100|h200|4090)\b' | head -n 1)
    if [[ -n $device ]]; then
        predicted=$("$kto" check "$timed/$name.cfg" --device "$device" 2>&1 | awk '$1 == "time" { print $2 }')
        figure "$name, by the roofline" "$(ratio "$predicted" 1 1000)" "ms (predicted)"
    fi
}
step_step() {
    need_kto step || return
    need_gpu step || return
    local name
    for name in "${case_names[@]}"; do
        if time_is_left 15 "step, $name"; then time_case "$name"; fi
    done
}

step_gemm() {
    need_no_rehearsal gemm || return
    need_gpu gemm || return
    [[ -x $build/bench_gemm_cuda ]] || {
        skip gemm "$build/bench_gemm_cuda is not there"
        return
    }
    local name rate work scored prefix
    for name in "${case_names[@]}"; do
        timed_case "$name" gemm && time_is_left 10 "gemm, $name" || continue
        case_is "$name"
        # y' has about as many tokens as y: the completions of a batch change places.
        scored=$(median_of "$name" 4) scored=${scored%.*}
        prefix=$(median_of "$name" 3) prefix=$((${prefix%.*} - 2 * scored))
        "$build/bench_gemm" "$timed/$model" $prefix "$scored" "$scored" shapes >"$timed/$name.shapes"
        within "$timed/$name.gemm" "$build/bench_gemm_cuda" <"$timed/$name.shapes" || {
            fail "gemm, $name" "$(tail -n 1 "$timed/$name.gemm")"
            continue
        }
        rate=$(awk '$1 == "bf16_gflops" { print $2 }' "$timed/$name.gemm")
        work=$(awk '$1 == "useful_gflop" { print $2 }' "$timed/$name.gemm")
        pass "gemm, $name"
        figure "$name, cuBLASLt's own rate" "$(ratio "$rate" 1000)" "TFLOP/s (cuBLASLt)"
        figure "$name, share of it" "$(ratio "$(ratio "$work" "$(median_of "$name" 2)")" "$rate" 100)" %
    done
}

# The last third of a run, so that loading and shapes that are new are over. CUPTI makes launches slower: what the GPU waits is
# an upper bound.
step_kernels() {
    need_no_rehearsal kernels || return
    local name run last
    [[ -e $build/kernel_times.so ]] || {
        skip kernels "$build/kernel_times.so is not there: it is built where CUPTI's header and library are"
        return
    }
    for name in plain real-all; do
        timed_case "$name" kernels && time_is_left 10 "kernels, $name" || continue
        run=$timed/run-kernels
        rm -rf "$run" "$timed/$name.kernels"
        last=$(awk '{ s[NR] = $2 } END { for (i = NR; i > NR * 2 / 3; i--) sum += s[i]; print sum }' "$timed/$name.steps")
        CUDA_INJECTION64_PATH=$build/kernel_times.so KERNEL_TIMES=$timed/$name.kernels KERNEL_TIMES_LAST=$last \
            check "kernels, $name" "$kto" train "$timed/$name.cfg" train.output_dir="$run" || continue
        if [[ ! -s $timed/$name.kernels ]]; then
            skip "kernels, $name" "CUPTI recorded nothing; is libcupti found?"
            continue
        fi
        figure "$name, GPU waits" "$(awk '$1 == "span" { span = $2 } $1 == "waits" { printf "%.2f", 100 * $2 / span }' \
            "$timed/$name.kernels")" "% waiting"
        while read -r _ share calls kernel; do
            figure "$name, ${kernel:0:70}" "$share" "% of the busy time, $calls launches"
        done < <(awk '$1 == "busy" { busy = $2 } $1 == "kernel" { $2 = sprintf("%.1f", 100 * $2 / busy); print }' \
            "$timed/$name.kernels" | head -n 12)
    done
}

# Torch and other programs that are not ours get the libraries of this machine, not those of tools/gpu_pack.
python_within() { # LOG WORDS...
    local log=$1
    shift
    within "$log" env LD_LIBRARY_PATH="${KTO_HOST_LIBRARY_PATH-${LD_LIBRARY_PATH-}}" HF_HUB_OFFLINE=1 "$python" "$@"
}
need_python() { # WHAT MODULES
    if [[ -z $python ]]; then
        skip "$1" "no Python was given (--python)"
    elif ! python_within "$out/log-python.txt" -c "import $2"; then
        skip "$1" "$python: $(tail -n 1 "$out/log-python.txt")"
    else
        return 0
    fi
    return 1
}

step_attention() {
    local rates backend_name shape direction rate shapes=()
    ((rehearsal)) && shapes=(small)
    if check "attention, kto" "$build/bench_attention" "$backend" "${shapes[@]}"; then
        # Lines "SHAPE: ..." and "  forward US us, RATE TFLOP/s; backward US us, RATE TFLOP/s".
        rates=$(awk '$1 ~ /:$/ { shape = substr($1, 1, length($1) - 1) }
            $1 == "forward" { print shape, $1, $4; print shape, $6, $9 }' "$out/log-attention--kto.txt")
        [[ -n $rates ]] || fail "attention, kto" "its log has no rates"
        while read -r shape direction rate; do
            figure "kto, $shape, $direction" "$rate" TFLOP/s
        done <<<"$rates"
    fi
    need_no_rehearsal "attention, torch" || return
    need_python "attention, torch" torch || return
    python_within "$timed.attention" tools/bench_attention.py || {
        fail "attention, torch" "$(tail -n 1 "$timed.attention")"
        return
    }
    pass "attention, torch"
    while read -r backend_name shape direction rate; do
        figure "torch $backend_name, $shape, $direction" "$rate" "TFLOP/s (torch)"
    done < <(grep -E '^(flash|cudnn) [a-z0-9]+ (for|back)ward [0-9.]+$' "$timed.attention")
}

# Asks `kto serve` for answers of up to 64 tokens.
time_serving() { # RUN
    local server port='' clients text i seconds=5 tokens=64
    ((rehearsal)) && seconds=1 tokens=4
    "$kto" serve "$1" --port 0 --max-tokens $tokens >"$timed/serve.log" 2>&1 &
    server=$!
    for ((i = 0; i < 300; i++)); do
        port=$(grep -oE 'http://[^ ]*:[0-9]+/' "$timed/serve.log" | head -n 1 | grep -oE '[0-9]+/' | tr -d /)
        [[ -z $port ]] && kill -0 $server 2>/dev/null || break
        sleep 0.1
    done
    if [[ -z $port ]]; then
        fail serve "the server does not start; see $timed/serve.log"
        kill $server 2>/dev/null
        return
    fi
    for clients in 1 64; do
        ((rehearsal)) && clients=$((clients > 1 ? 4 : 1))
        if check "serve, $clients clients" "$build/bench_serve" --clients $clients --seconds $seconds --port "$port" \
            configs/demo/titles.jsonl; then
            text=$(grep -oE '[0-9]+ tokens a second' "$out/log-serve--$clients-clients.txt")
            figure "$clients client$( ((clients > 1)) && echo s)" "${text%% *}" tokens/s
        fi
    done
    kill -TERM $server
    wait $server || fail "serve, end" "exit code $?; see $timed/serve.log"
}
step_decode() {
    need_kto decode || return
    need_gpu decode || return
    timed_case plain decode || return
    local prompts=$timed/ask.jsonl count=64 tokens=128 begin
    ((rehearsal)) && count=2 tokens=4
    head -n $count configs/demo/titles.jsonl >"$prompts"
    begin=${EPOCHREALTIME/./}
    if within "$timed/sample.log" "$kto" sample "$timed/run-plain" --prompts "$prompts" --temperature 1 --max-tokens $tokens; then
        pass sample
        figure "sample, $count prompts, $tokens tokens at most, the whole process" \
            "$(ratio $((${EPOCHREALTIME/./} - begin)) 1000000)" s
    else
        fail sample "$(last_line "$timed/sample.log"); see $timed/sample.log"
    fi
    if time_is_left 25 serve; then time_serving "$timed/run-plain"; fi
}

# "SECONDS LIGER" of the faster of a case without and with Liger's kernels; nothing where TRL has no step of it.
faster_trl() { # CASE LOG
    local liger
    for liger in 0 1; do
        awk -v name="$1" -v liger=$liger '$1 == name && $2 == liger && $3 == "step" && $4 > 1' "$2" | median 5 | sed "s/\$/ $liger/"
    done | sort -g | head -n 1
}
step_trl() {
    need_python trl "trl, transformers, peft, datasets, torch" || return
    local name model_name words=(--liger) specs targets log best liger
    ((rehearsal)) || words+=(--cuda)
    for model_name in tinyllama wide; do
        specs=() log=$timed/trl-$model_name.log
        for name in "${case_names[@]}"; do
            case_is "$name"
            [[ $model == "$model_name" ]] && timed_case "$name" trl || continue
            targets=$([[ $adapter == all ]] && echo all || modules "$adapter")
            specs+=("$name:$timed/$name.jsonl:$batch:$((case_steps < 10 ? case_steps : 10)):$max_length:$targets:$(rank_of "$adapter")")
        done
        ((${#specs[@]})) && time_is_left 30 "trl, $model_name" || continue
        # What it has printed when the time is over counts.
        python_within "$log" tools/bench_trl.py --model "$timed/$model_name" --threads "$(nproc)" --scratch "$timed/trl" \
            "${words[@]}" "${specs[@]}"
        for name in "${specs[@]%%:*}"; do
            read -r best liger < <(faster_trl "$name" "$log")
            if [[ -z $best ]]; then
                skip "trl, $name" "no step of TRL: $(grep "^$name " "$log" | tail -n 1); see $log"
                continue
            fi
            pass "trl, $name" "Liger $( ((liger)) && echo on || echo off)"
            figure "$name" "$(ratio "$best" 1 1000)" "ms (TRL)"
            figure "$name, TRL over kto" "$(ratio "$best" "$(median_of "$name" 2)")"
            figure "$name, peak memory" "$(awk -v name="$name" -v liger="$liger" '
                $1 == name && $2 == liger && $3 == "peak_mib" { print $4 }' "$log")" "MiB (TRL)"
        done
    done
}

step_scaling() {
    need_kto scaling || return
    if ((!rehearsal && gpus < 2)); then
        skip scaling "it takes two GPUs; there are $gpus"
        return
    fi
    make_case plain || return
    local n counts=(1 2) comm=nccl seconds one='' rate
    for ((n = 3; n <= gpus; n++)); do counts+=("$n"); done
    if ((rehearsal)); then comm=mpi; fi
    for n in "${counts[@]}"; do
        make_rows plain $((case_steps * batch * n)) >"$timed/scaling-$n.jsonl"
        rm -rf "$timed/run-scaling"
        if ! OMP_NUM_THREADS=1 within "$timed/scaling-$n.log" mpirun -n "$n" "$kto" train "$timed/plain.cfg" \
            data.train="$timed/scaling-$n.jsonl" data.reference_cache="$timed/scaling-$n.reference" \
            train.global_batch_size=$((batch * n)) device.comm=$comm train.output_dir="$timed/run-scaling"; then
            fail "scaling, $n ranks" "$(last_line "$timed/scaling-$n.log"); see $timed/scaling-$n.log"
            continue
        fi
        pass "scaling, $n rank$([[ $n == 1 ]] || echo s)"
        seconds=$("$build/bench_steps" "$timed/run-scaling/metrics.h5" | tail -n +2 | median 2)
        rate=$(ratio $((batch * n * (prompt + completion))) "$seconds")
        one=${one:-$rate}
        figure "$n GPUs" "$rate" tokens/s
        ((n > 1)) && figure "$n GPUs, efficiency" "$(ratio "$rate" "$one" "$(ratio 100 "$n")")" %
    done
}

step_sanitizer() {
    local sanitizer tool name
    sanitizer=$(command -v compute-sanitizer || compgen -G '/usr/local/cuda/bin/compute-sanitizer')
    if ((rehearsal)) || [[ -z $sanitizer ]]; then
        skip sanitizer "$( ((rehearsal)) && echo "a rehearsal" || echo "compute-sanitizer is not installed")"
        return
    fi
    for tool in memcheck racecheck; do
        for name in vector matrix attention; do
            if ((step_end - SECONDS < 30)); then
                skip "$tool, $name" "no time is left for it"
                continue
            fi
            local log=$out/log-$tool-$name.txt status
            within "$log" "$sanitizer" --tool $tool --error-exitcode 9 "$build/tests/kernels_test_$name" cuda
            status=$?
            case $status in
            0) pass "$tool, $name" ;;
            124 | 137) skip "$tool, $name" "not finished in the time that was left" ;;
            *) fail "$tool, $name" "exit code $status; see $log" ;;
            esac
        done
    done
}
