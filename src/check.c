// `kto check` and `kto reference`: what can be known or computed before training.
#include "src/run.h"

#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/roofline.h"
#include "src/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
static void add_micro_batch(RooflineTokens *sum, const BatchRow *rows, const int32_t *slot, int32_t count, bool share) {
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
    const TokenCount tokens = batch_count(rows, slot, count, ROLES_ALL, share);
    sum->prefix += (double)tokens.prefix;
    sum->policy += (double)tokens.policy;
    sum->kl += (double)tokens.kl;
    if (apart > 0) sum->prefix_keys += (double)tokens.prefix * apart_keys / apart;
    sum->micro_batches++;
}

// The mean over batches and ranks.
static Status measure_tokens(const Run *run, RooflineTokens *out) {
    const Dataset *data = &run->train;
    BatchRow *rows = NULL;
    BatchPlan plan = {0};
    TRY(MEMORY_ALLOC(rows, data->batch_size, "a batch"));
    BatchOptions options = {.ranks = run->comm->size,
                            .micro_batch_tokens = run->step.micro_batch_tokens,
                            .share = run->step.share_prefixes};
    Status status = STATUS_OK;
    *out = (RooflineTokens){0};
    for (int32_t batch = 0; batch < data->batch_count && status == STATUS_OK; batch++) {
        dataset_batch(data, batch, rows);
        for (options.rank = 0; options.rank < options.ranks && status == STATUS_OK; options.rank++) {
            status = batch_plan(rows, dataset_batch_rows(data, batch), &options, &plan);
            for (int32_t i = 0; i < plan.micro_count && status == STATUS_OK; i++)
                add_micro_batch(out, rows, plan.slot + plan.micro_first[i],
                                plan.micro_first[i + 1] - plan.micro_first[i], options.share);
            out->two_pass |= plan.two_pass;
        }
    }
    batch_plan_free(&plan);
    free(rows);
    const double steps = (double)data->batch_count * run->comm->size;
    double *means[] = {&out->prefix,      &out->policy,  &out->kl,           &out->prefix_keys,
                       &out->policy_keys, &out->kl_keys, &out->micro_batches};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++) *means[i] /= steps;
    return status;
}

static Status measure(Estimate *e) {
    e->size = (LayoutSize){0};
    TRY(run_measure_layout(e->run, &e->run->train, 0, e->run->comm->size, &e->size));
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
    log_info(
        "%-8s %.3g s a step by the roofline of docs/speed.md, %.0f tokens/s over %d rank%s; %lld steps take %.3g min",
        "time", step, (e->tokens.prefix + e->tokens.policy + e->tokens.kl) * e->run->comm->size / step,
        e->run->comm->size, e->run->comm->size == 1 ? "" : "s", (long long)steps, step * (double)steps / 60);
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
    const int64_t most = run_largest_micro_batch(&e->model, &again, room);
    const double limit = device->memory_gib * 0x1p30 * RUN_MEMORY_SHARE;
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
    const double room = total * RUN_MEMORY_SHARE - weights - adapters;
    const int64_t largest = run_largest_micro_batch(&e->model, &e->options, room);
    if (largest > 0 && run->config.train.micro_batch_tokens == 0) {
        run->step.micro_batch_tokens = largest;
        TRY(measure(e));
    }
    const double working = run_working_bytes(&e->model, &e->options, e->size.keep, e->size.all);
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
    if (used <= total * RUN_MEMORY_SHARE)
        log_info("%-8s fits: %.0f of the %.0f MiB that a run takes at most (%.0f %% of the device)", "", used / 0x1p20,
                 total * RUN_MEMORY_SHARE / 0x1p20, RUN_MEMORY_SHARE * 100);
    else
        log_warning("does not fit: %.0f MiB of the %.0f MiB that a run takes at most; the largest "
                    "train.micro_batch_tokens is %lld, and no row may be longer (data.max_length); "
                    "train.recompute = \"layer\" needs less",
                    used / 0x1p20, total * RUN_MEMORY_SHARE / 0x1p20, (long long)largest);
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
    TRY(comm_agree(comm, config_load(&run.config, argv[0], argc - 1, argv + 1)));
    Status status = run_open(&run, RUN_ROWS);
    if (status == STATUS_OK) status = comm_agree(comm, model_config_read(&estimate.model, run.config.model.path));
    if (status == STATUS_OK && comm->rank == 0) {
        run.step.micro_batch_tokens = run.config.train.micro_batch_tokens;
        run.step.share_prefixes = run.config.data.share_prefixes;
        run_describe_rows(&run);
        estimate.options = (ModelOptions){.device.dtype = run.config.model.dtype == 1 ? DTYPE_BF16 : DTYPE_F32,
                                          .lora_r = (int32_t)run.config.lora.r,
                                          .recompute = run.config.train.recompute == 1};
        memcpy(estimate.options.lora_target, run.config.lora.target, sizeof estimate.options.lora_target);
        status = describe_cost(&estimate, device);
    }
    run_close(&run);
    return comm_agree(comm, status);
}

static Status fill(Run *run, const Dataset *dataset, Reference *reference, const char *name) {
    StepTimes times = {0};
    MetricsRow unused;
    double last_save = clock_seconds();
    for (int32_t batch = 0, done = 0; batch < dataset->batch_count; batch++) {
        if (reference_has(reference, dataset, batch)) continue;
        unsigned said = 0;
        if (++done % BATCHES_PER_AGREEMENT == 0) TRY(stop_agree(run->comm, 0, &said));
        if (said & SAY_STOP) {
            TRY(comm_agree(run->comm, reference_save(reference, run->comm)));
            log_info("%-8s on request before %s batch %d of %d; the same command goes on from there", "stopped", name,
                     batch + 1, dataset->batch_count);
            return STATUS_STOPPED;
        }
        TRY(step_run(&run->step, dataset, batch, STEP_REFERENCE, 0, reference, &unused, &times));
        char line[128];
        snprintf(line, sizeof line, "reference of %s: batch %d of %d", name, batch + 1, dataset->batch_count);
        log_progress(line);
        if (clock_seconds() - last_save < 60) continue; // a killed run keeps what it had
        TRY(reference_save(reference, run->comm));
        last_save = clock_seconds();
    }
    log_info("%s: %d %s in %s", name, dataset->count, dataset->pairs ? "pairs" : "rows", reference->path);
    return reference_save(reference, run->comm);
}

static Status run_reference(Comm *comm, int argc, char **argv) {
    Run run = {.comm = comm};
    TRY(comm_agree(comm, command_parse(&command_reference, &argc, argv, NULL)));
    TRY(comm_agree(comm, config_load(&run.config, argv[0], argc - 1, argv + 1)));
    const char *folder =
        run.config.data.reference_cache[0] != '\0' ? run.config.data.reference_cache : run.config.train.output_dir;
    Status status = comm_agree(comm, comm->rank == 0 ? folder_make(folder) : STATUS_OK);
    if (status == STATUS_OK) status = run_open(&run, RUN_ROWS | RUN_MODEL | RUN_STEP);
    if (status == STATUS_OK) status = reference_open(&run.train_reference, &run.train, &run.step, folder);
    if (status == STATUS_OK) status = fill(&run, &run.train, &run.train_reference, "train");
    if (status == STATUS_OK && run.eval.count > 0) {
        status = reference_open(&run.eval_reference, &run.eval, &run.step, folder);
        if (status == STATUS_OK) status = fill(&run, &run.eval, &run.eval_reference, "eval");
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

const Command command_reference = {
    .name = "reference",
    .operands = "CONFIG [key=value ...]",
    .operands_min = 1,
    .operands_max = -1,
    .takes_keys = true,
    .stops_on_request = true,
    .summary = "compute the reference log-probabilities ahead of training",
    .text = "Fills the cache that training reads (data.reference_cache). Stopped or killed, it goes on where it was.",
    .examples = "mpirun -n 2 kto reference run.cfg",
    .run = run_reference,
};
