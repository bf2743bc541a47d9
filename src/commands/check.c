// `kto check`: what can be known before training.
#include "src/commands/commands.h"

#include "comm/stop.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/text.h"
#include "src/data/plan_walk.h"
#include "src/model/roofline.h"
#include "src/setup/describe.h"
#include "src/setup/memory_plan.h"
#include "src/setup/run.h"

#include <stddef.h>

// What `kto check` knows of a run.
typedef struct Estimate {
    Run *run;
    ModelConfig model;
    ModelOptions options;
    LayoutSize size;
    RooflineTokens tokens;
} Estimate;

// Adds a micro-batch of rows[slot[0 .. count)]. A prefix shared by several prompts counts as many keys a token as the
// prompts' tokens have on average: a little too many, as it is their start.
static void add_micro_batch(RooflineTokens *sum, const BatchRow *rows, const int32_t *slot, int32_t count, bool share,
                            int32_t *scratch) {
    double apart = 0, apart_keys = 0;
    for (int32_t i = 0; i < count; i++) {
        const BatchRow *row = &rows[slot[i]];
        const double prompt = row->prompt_length;
        apart += prompt - 1;
        apart_keys += prompt * (prompt - 1) / 2;
        for (int32_t c = 0; c < row->completion_count; c++) {
            const double n = row->completion[c].length, keys = n * prompt + n * (n - 1) / 2;
            *(row->completion[c].role == ROLE_KL ? &sum->kl_keys : &sum->policy_keys) += keys;
        }
    }
    const TokenCount tokens = batch_count(rows, slot, count, ROLES_ALL, share, scratch);
    sum->prefix += (double)tokens.prefix;
    sum->policy += (double)tokens.policy;
    sum->kl += (double)tokens.kl;
    if (apart > 0) sum->prefix_keys += (double)tokens.prefix * apart_keys / apart;
    sum->micro_batches++;
}

static Status add_tokens(void *argument, int32_t batch, const BatchRow *rows, const BatchPlan *plan,
                         const BatchOptions *options) {
    (void)batch;
    RooflineTokens *sum = argument;
    for (int32_t i = 0; i < plan->micro_count; i++)
        add_micro_batch(sum, rows, plan->slot + plan->micro_first[i], plan->micro_first[i + 1] - plan->micro_first[i],
                        options->share, plan->scratch);
    sum->two_pass |= plan->two_pass;
    return STATUS_OK;
}

// The mean over batches and ranks.
static Status measure_tokens(const Run *run, RooflineTokens *out) {
    const BatchOptions options = step_batch_options(&run->step);
    *out = (RooflineTokens){0};
    TRY(plan_walk(&run->train, &options, 1, 0, options.ranks, add_tokens, out));
    const double steps = (double)run->train.batch_count * options.ranks;
    double *means[] = {&out->prefix,      &out->policy,  &out->kl,           &out->prefix_keys,
                       &out->policy_keys, &out->kl_keys, &out->micro_batches};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++) *means[i] /= steps;
    return STATUS_OK;
}

static Status measure(Estimate *e) {
    e->size = (LayoutSize){0};
    TRY(memory_plan_measure(e->run, &e->run->train, 0, e->run->comm->size, &e->size));
    return measure_tokens(e->run, &e->tokens);
}

// Operations a step of the products that it cannot do without, over all ranks, as docs/speed.md counts them.
static double useful_flops(const Estimate *e) {
    RooflineTokens tokens = e->tokens;
    ModelOptions options = e->options;
    RooflineWork work;
    tokens.two_pass = options.recompute = false;
    roofline_work(&e->model, &options, &tokens, &work);
    return (work.flops[ROOFLINE_LINEAR] + work.flops[ROOFLINE_HEAD]) * e->run->comm->size;
}

static void describe_time(const Estimate *e, const RooflineDevice *device) {
    RooflineWork work;
    double seconds[ROOFLINE_CLASSES], host;
    roofline_work(&e->model, &e->options, &e->tokens, &work);
    const double step = roofline_seconds(device, e->options.device.dtype, &work, seconds, &host);
    const int64_t steps = run_total_steps(e->run);
    char one[32], all[32];
    log_info("%-8s %s a step by the roofline of docs/speed.md, %.0f tokens/s over %d rank%s; %lld steps take %s",
             "time", duration_text(step, one),
             (e->tokens.prefix + e->tokens.policy + e->tokens.kl) * e->run->comm->size / step, e->run->comm->size,
             e->run->comm->size == 1 ? "" : "s", (long long)steps, duration_text(step * (double)steps, all));
    for (int i = 0; i < ROOFLINE_CLASSES; i++)
        log_info("%-8s   %-26s %9.2f ms  %9.3f TFLOP  %8.3f GB", "", roofline_class_names[i], seconds[i] * 1e3,
                 work.flops[i] / 1e12, work.bytes[i] / 1e9);
    log_info("%-8s   %-26s %9.2f ms of the host, beside that", "", "launches", host * 1e3);
    log_info("%-8s   shares of the rates: %s", "", roofline_shares_source(device, e->options.device.dtype));
}

// What is left beside weights and adapters, and how large micro-batches it allows.
static void describe_room(const Estimate *e, const RooflineDevice *device, double room, int64_t largest) {
    ModelOptions again = e->options;
    again.recompute = true;
    const int64_t most = memory_plan_largest_micro_batch(&e->model, &again, room);
    const double limit = device->memory_gib * 0x1p30 * MEMORY_PLAN_SHARE;
    if (most == 0)
        log_warning("this model does not fit %s: weights and adapters are %.0f MiB, and a run takes at most %.0f MiB",
                    device->title, (limit - room) / 0x1p20, limit / 0x1p20);
    else if (e->options.recompute)
        log_info("%-8s %.0f MiB are left for a micro-batch: at most %lld tokens", "", room / 0x1p20, (long long)most);
    else
        log_info("%-8s %.0f MiB are left for a micro-batch: at most %lld tokens, %lld with train.recompute = \"layer\"",
                 "", room / 0x1p20, (long long)largest, (long long)most);
}

// What the run would be on a device that need not be here, one for each rank.
static Status describe_device(Estimate *e, const RooflineDevice *device) {
    Run *run = e->run;
    const char *why = "";
    e->options.backend = backend_find("cuda", &why);
    const double total = device->memory_gib * 0x1p30;
    const double weights = (double)model_weight_bytes(&e->model, e->options.device.dtype);
    const double adapters = (double)roofline_adapter_bytes(&e->model, &e->options);
    const double room = total * MEMORY_PLAN_SHARE - weights - adapters;
    const int64_t largest = memory_plan_largest_micro_batch(&e->model, &e->options, room);
    if (largest > 0 && run->config.train.micro_batch_tokens == 0) {
        run->step.micro_batch_tokens = largest;
        TRY(measure(e));
    }
    const double working = memory_plan_working_bytes(&e->model, &e->options, e->size.keep, e->size.all);
    const double activations = (double)model_activation_bytes(&e->model, &e->options, e->size.keep, e->size.all);
    log_info("%-8s %s: %.1f GiB, %g TFLOP/s in %s, %g GB/s (%s)", "device", device->title, device->memory_gib,
             e->options.device.dtype == DTYPE_BF16 ? device->bf16_tflops : device->fp32_tflops,
             e->options.device.dtype == DTYPE_BF16 ? "bfloat16" : "float32", device->gigabytes_per_second,
             device->source);
    log_info("%-8s weights %.0f MiB, adapters %.1f MiB, activations %.0f MiB, scratch %.0f MiB%s", "memory",
             weights / 0x1p20, adapters / 0x1p20, activations / 0x1p20, (working - activations) / 0x1p20,
             e->options.backend != NULL ? "" : " (assumed: the CUDA device is not built here)");
    describe_room(e, device, room, largest);
    if (largest == 0) return STATUS_OK;
    log_info("%-8s train.micro_batch_tokens %s%lld; the largest micro-batch has %lld tokens", "",
             run->config.train.micro_batch_tokens == 0 ? "would be " : "", (long long)run->step.micro_batch_tokens,
             (long long)e->size.all);
    const double used = weights + adapters + working;
    if (used <= total * MEMORY_PLAN_SHARE)
        log_info("%-8s fits: %.0f of the %.0f MiB that a run takes at most (%.0f %% of the device)", "", used / 0x1p20,
                 total * MEMORY_PLAN_SHARE / 0x1p20, MEMORY_PLAN_SHARE * 100);
    else
        log_warning("does not fit: %.0f MiB of the %.0f MiB that a run takes at most; the largest "
                    "train.micro_batch_tokens is %lld, and no row may be longer (data.max_length); "
                    "train.recompute = \"layer\" needs less",
                    used / 0x1p20, total * MEMORY_PLAN_SHARE / 0x1p20, (long long)largest);
    describe_time(e, device);
    return STATUS_OK;
}

static Status describe_cost(Estimate *e, const RooflineDevice *device) {
    Run *run = e->run;
    TRY(measure(e));
    log_info("%-8s %lld steps of %d %s", "run", (long long)run_total_steps(run), run->train.batch_size,
             run->train.pairs ? "pairs" : "rows");
    if (device != NULL) {
        TRY(describe_device(e, device));
    } else {
        const double weights = (double)model_weight_bytes(&e->model, e->options.device.dtype);
        const double activations = (double)model_activation_bytes(&e->model, &e->options, e->size.keep, e->size.all);
        log_info("%-8s weights %.0f MiB a node, activations %.0f MiB a rank (%lld tokens in the largest micro-batch)",
                 "memory", weights / 0x1p20, activations / 0x1p20, (long long)e->size.all);
    }
    log_info("%-8s %.3g TFLOP a step, over %d rank%s (matrix products, docs/speed.md)", "cost", useful_flops(e) / 1e12,
             run->comm->size, run->comm->size == 1 ? "" : "s");
    return STATUS_OK;
}

typedef struct CheckOptions {
    const char *device; // NULL: none
} CheckOptions;

static Status run_check(Comm *comm, int argc, char **argv) {
    Run run = {.comm = comm};
    Estimate estimate = {.run = &run};
    CheckOptions options = {0};
    const RooflineDevice *device = NULL;
    TRY(comm_agree(comm, command_parse(&command_check, &argc, argv, &options)));
    if (options.device != NULL) TRY(comm_agree(comm, roofline_device(options.device, &device)));
    TRY(run_begin(&run, argc, argv));
    Status status = run_open(&run, RUN_ROWS, 0);
    if (status == STATUS_OK) status = comm_agree(comm, model_config_read(&estimate.model, run.config.model.path));
    if (status == STATUS_OK && comm->rank == 0) {
        run.step.comm = comm; // what a batch's plan depends on
        run.step.micro_batch_tokens = run.config.train.micro_batch_tokens;
        run.step.share_prefixes = run.config.data.share_prefixes;
        describe_rows(&run);
        estimate.options = run_model_options(&run.config);
        status = describe_cost(&estimate, device);
    }
    run_close(&run);
    return comm_agree(comm, status);
}

static const Flag check_flags[] = {
    {.name = "--device",
     .value = "NAME",
     .kind = FLAG_TEXT,
     .offset = offsetof(CheckOptions, device),
     .help = "also what a run on l4, a10, 4090, l40s, a100-40, a100, h100 or h200 would need and take; opens none"},
    {0}};

const Command command_check = {
    .name = "check",
    .operands = "CONFIG [key=value ...]",
    .operands_min = 1,
    .operands_max = -1,
    .takes_keys = true,
    .summary = "say what training would do, and train nothing",
    .text =
        "Reads configuration, rows and the model's header, and prints rows, cuts, label balance, tokens that sharing\n"
        "saves, memory and cost.",
    .examples = "kto check run.cfg\n"
                "kto check run.cfg --device l4 train.global_batch_size=64",
    .flags = check_flags,
    .run = run_check,
};
