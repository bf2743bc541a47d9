// `kto check` and `kto reference`: what can be known or computed before training.
#include "src/run.h"

#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"

#include <stdio.h>
#include <stdlib.h>

// Multiply-adds of the linear layers and the LM head that a step needs, as docs/speed.md counts them, times two.
static double step_flops(const ModelConfig *c, TokenCount tokens) {
    const double attention = 2.0 * c->hidden * c->head_dim * c->heads, kv = 2.0 * c->hidden * c->head_dim * c->kv_heads;
    const double rest = attention + 3.0 * c->hidden * c->intermediate, head = (double)c->hidden * c->vocab;
    const double all = (double)(tokens.prefix + tokens.policy + tokens.kl),
                 scored = (double)(tokens.policy + tokens.kl);
    const double grad = (double)(tokens.prefix + tokens.policy), y = (double)tokens.policy;
    const double forward = (c->layers - 1) * (rest + kv) * all + kv * all + (rest + head) * scored;
    const double backward = (c->layers - 1) * (rest + kv) * grad + kv * grad + (rest + head) * y;
    return 2 * (forward + backward);
}

// The largest micro-batch of any rank over all batches, by tokens.
static Status largest_micro_batch(const Run *run, TokenCount *most) {
    const Dataset *dataset = &run->train;
    BatchRow *rows = NULL;
    BatchPlan plan = {0};
    TRY(MEMORY_ALLOC(rows, dataset->batch_size, "a batch"));
    Status status = STATUS_OK;
    for (int32_t batch = 0; batch < dataset->batch_count && status == STATUS_OK; batch++) {
        dataset_batch(dataset, batch, rows);
        for (int32_t rank = 0; rank < run->comm->size && status == STATUS_OK; rank++) {
            const BatchOptions options = {.rank = rank,
                                          .ranks = run->comm->size,
                                          .micro_batch_tokens = run->step.micro_batch_tokens,
                                          .share = run->step.share_prefixes};
            status = batch_plan(rows, dataset_batch_rows(dataset, batch), &options, &plan);
            for (int32_t i = 0; i < plan.micro_count && status == STATUS_OK; i++) {
                const TokenCount tokens =
                    batch_count(rows, plan.slot + plan.micro_first[i], plan.micro_first[i + 1] - plan.micro_first[i],
                                ROLES_ALL, options.share);
                if (tokens.prefix + tokens.policy + tokens.kl > most->prefix + most->policy + most->kl) *most = tokens;
            }
        }
    }
    batch_plan_free(&plan);
    free(rows);
    return status;
}

Status command_check(Comm *comm, int argc, char **argv) {
    Run run = {.comm = comm};
    TRY(comm_agree(comm, config_load(&run.config, argv[0], argc - 1, argv + 1)));
    Status status = run_open(&run, RUN_ROWS);
    ModelConfig c;
    if (status == STATUS_OK) status = comm_agree(comm, model_config_read(&c, run.config.model.path));
    if (status == STATUS_OK && comm->rank == 0) {
        run.step.micro_batch_tokens = run.config.train.micro_batch_tokens;
        run.step.share_prefixes = run.config.data.share_prefixes;
        run_describe_rows(&run);
        const DType dtype = run.config.model.dtype == 1 ? DTYPE_BF16 : DTYPE_F32;
        const ModelOptions options = {
            .device.dtype = dtype, .lora_r = (int32_t)run.config.lora.r, .recompute = run.config.train.recompute == 1};
        TokenCount most = {0};
        status = largest_micro_batch(&run, &most);
        const int64_t keep = most.prefix + most.policy, all = keep + most.kl;
        log_info("%-8s %lld steps of %d rows", "run", (long long)run_total_steps(&run), run.train.batch_size);
        log_info(
            "%-8s weights %.0f MiB a node, activations up to %.0f MiB a rank (%lld tokens in its largest micro-batch)",
            "memory", (double)model_weight_bytes(&c, dtype) / 0x1p20,
            (double)model_activation_bytes(&c, &options, keep, all) / 0x1p20, (long long)all);
        log_info("%-8s %.3g TFLOP a step at most, over %d rank%s", "cost", comm->size * step_flops(&c, most) / 1e12,
                 comm->size, comm->size == 1 ? "" : "s");
    }
    run_close(&run);
    return comm_agree(comm, status);
}

static Status fill(Run *run, const Dataset *dataset, Reference *reference, const char *name) {
    StepTimes times = {0};
    MetricsRow unused;
    double last_save = clock_seconds();
    for (int32_t batch = 0; batch < dataset->batch_count; batch++) {
        if (reference_has(reference, dataset, batch)) continue;
        TRY(step_run(&run->step, dataset, batch, STEP_REFERENCE, 0, reference, &unused, &times));
        char line[128];
        snprintf(line, sizeof line, "reference of %s: batch %d of %d", name, batch + 1, dataset->batch_count);
        log_progress(line);
        if (clock_seconds() - last_save < 60) continue; // a killed run keeps what it had
        TRY(reference_save(reference, run->comm));
        last_save = clock_seconds();
    }
    log_info("%s: %d rows in %s", name, dataset->count, reference->path);
    return reference_save(reference, run->comm);
}

Status command_reference(Comm *comm, int argc, char **argv) {
    Run run = {.comm = comm};
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
