// `kto check` and `kto reference`: what can be known or computed before training.
#include "src/run.h"

#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"

#include <stdio.h>

// Operations of the matrix products that these tokens need, as docs/speed.md counts them.
static double step_flops(const ModelConfig *c, TokenCount tokens) {
    const double q = (double)c->hidden * c->head_dim * c->heads, kv = 2.0 * c->hidden * c->head_dim * c->kv_heads;
    const double rest = q + 3.0 * c->hidden * c->intermediate; // o and MLP
    const double layer = q + kv + rest, head = (double)c->hidden * c->vocab, inner = c->layers - 1;
    const double scored = (double)(tokens.policy + tokens.kl), y = (double)tokens.policy;
    const double all = (double)tokens.prefix + scored, grad = (double)(tokens.prefix + tokens.policy);
    const double forward = inner * layer * all + kv * all + (q + rest + head) * scored;
    // Nothing flows into the first layer's q, k and v.
    const double backward = (inner > 0 ? (inner - 1) * layer + rest : 0) * grad + kv * grad + (q + rest + head) * y;
    return 2 * (forward + backward);
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
        LayoutSize size = {0};
        status = run_measure_layout(&run, &run.train, 0, comm->size, &size);
        log_info("%-8s %lld steps of %d rows", "run", (long long)run_total_steps(&run), run.train.batch_size);
        log_info("%-8s weights %.0f MiB a node, activations %.0f MiB a rank (%lld tokens in the largest micro-batch)",
                 "memory", (double)model_weight_bytes(&c, dtype) / 0x1p20,
                 (double)model_activation_bytes(&c, &options, size.keep, size.all) / 0x1p20, (long long)size.all);
        log_info("%-8s %.3g TFLOP a step, over %d rank%s (matrix products, docs/speed.md)", "cost",
                 step_flops(&c, size.total) / run.train.batch_count / 1e12, comm->size, comm->size == 1 ? "" : "s");
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
