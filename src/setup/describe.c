#include "src/setup/describe.h"

#include "src/base/log.h"
#include "src/data/plan_walk.h"
#include "src/setup/device.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define SHARING_BATCHES 200 // what sharing saves is counted over at most this many batches, evenly spread

static void describe_labels(const Run *run) {
    const DatasetCounts *counts = &run->train.counts;
    if (run->train.pairs) return;
    if (counts->desirable == 0 || counts->undesirable == 0) {
        log_warning("%s: every row is %s; KTO learns from the difference between both labels", run->train.path,
                    counts->desirable == 0 ? "undesirable" : "desirable");
        return;
    }
    double low, high;
    const KtoOptions kto = {.desirable_weight = run->config.kto.desirable_weight,
                            .undesirable_weight = run->config.kto.undesirable_weight};
    if (isnan(kto.desirable_weight) || isnan(kto.undesirable_weight)) return;
    if (!kto_weights_in_range(&kto, counts->desirable, counts->undesirable, &low, &high))
        log_warning("%lld desirable and %lld undesirable rows: the KTO paper (eq. 8) advises kto.desirable_weight in "
                    "[%.2f, %.2f] for kto.undesirable_weight %g; set it there, or to \"auto\"",
                    (long long)counts->desirable, (long long)counts->undesirable, low, high, kto.undesirable_weight);
}

static void describe_dataset(const Dataset *dataset, const char *name) {
    const DatasetCounts *counts = &dataset->counts;
    if (dataset->pairs)
        log_info("%-8s %s: %d pairs, %.1f tokens a completion with its prompt, longest %lld", name, dataset->path,
                 dataset->count, (double)counts->tokens / dataset->row_count, (long long)counts->longest);
    else
        log_info("%-8s %s: %d rows, %lld desirable and %lld undesirable, %.1f tokens a row, longest %lld", name,
                 dataset->path, dataset->count, (long long)counts->desirable, (long long)counts->undesirable,
                 (double)counts->tokens / dataset->count, (long long)counts->longest);
    if (counts->dropped + counts->cut > 0)
        log_info("%-8s data.max_length: %lld %s dropped (the prompt alone fills it), %lld completions cut", "",
                 (long long)counts->dropped, dataset->pairs ? "pairs" : "rows", (long long)counts->cut);
    if (counts->bad > 0) log_warning("%lld bad rows skipped; the first: %s", (long long)counts->bad, counts->first_bad);
}

typedef struct Sharing {
    double laid_out, apart; // tokens: as they are computed, and as one sequence a completion
    int64_t batches;
} Sharing;

static Status add_sharing(void *argument, int32_t batch, const BatchRow *rows, const BatchPlan *plan,
                          const BatchOptions *options) {
    (void)batch;
    Sharing *sum = argument;
    const TokenCount tokens = batch_computed(rows, plan, options);
    sum->laid_out += (double)(tokens.prefix + tokens.policy + tokens.kl);
    for (int32_t i = 0; i < plan->count; i++)
        for (int32_t c = 0; c < rows[i].completion_count; c++)
            sum->apart += rows[i].prompt_length + rows[i].completion[c].length;
    sum->batches++;
    return STATUS_OK;
}

static void describe_sharing(const Run *run) {
    const BatchOptions options = step_batch_options(&run->step);
    Sharing sum = {0};
    if (plan_walk(&run->train, &options, run->train.batch_count / SHARING_BATCHES + 1, 0, 1, add_sharing, &sum) !=
        STATUS_OK)
        error_clear(); // a summary that is left out for want of memory is no failure
    if (sum.batches > 0)
        log_info("%-8s %.0f tokens a step; one sequence a completion would be %.0f: sharing saves %.0f %%", "batches",
                 sum.laid_out / (double)sum.batches, sum.apart / (double)sum.batches,
                 100 * (1 - sum.laid_out / sum.apart));
}

void describe_rows(const Run *run) {
    describe_dataset(&run->train, "train");
    if (run->eval.count > 0) describe_dataset(&run->eval, "eval");
    describe_sharing(run);
    describe_labels(run);
}

void describe_run(const Run *run) {
    const Config *config = &run->config;
    const Model *model = &run->model;
    const ModelConfig *c = &model->config;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    const DType dtype = model->options.device.dtype;
    log_info("%-8s %s: %s, %d layers, hidden %d, vocabulary %d, %.1f M parameters in %s", "model", config->model.path,
             arch_of(c)->title, c->layers, c->hidden, c->vocab,
             (double)model_weight_bytes(c, dtype) / (double)dtype_size(dtype) / 1e6,
             dtype == DTYPE_BF16 ? "bfloat16" : "float32");
    log_info("%-8s LoRA r %lld alpha %g: %.2f M parameters", "adapter", (long long)config->lora.r, config->lora.alpha,
             (double)model->table.count / 1e6);
    describe_rows(run);
    const char *plural = run->comm->size == 1 ? "" : "s";
    if (device_is_gpu(&info))
        log_info("%-8s %s; %d rank%s%s", "device", info.name, run->comm->size, plural,
                 run->comm->size == 1            ? ""
                 : run->step.device_comm != NULL ? ", gradients summed by NCCL"
                                                 : ", gradients summed over MPI");
    else
        log_info("%-8s %s; %d rank%s, %d thread%s each", "device", info.name, run->comm->size, plural, info.threads,
                 info.threads == 1 ? "" : "s");
    if (info.note[0] != '\0') log_info("%-8s %s", "", info.note);
    log_info("%-8s weights %.0f MiB, adapters %.1f MiB, activations %.0f MiB, scratch %.0f MiB on this rank "
             "(micro_batch_tokens %lld)",
             "memory", (double)model->memory.weights / 0x1p20, (double)model->memory.adapters / 0x1p20,
             (double)model->memory.activations / 0x1p20, (double)model->memory.scratch / 0x1p20,
             (long long)run->step.micro_batch_tokens);
    int online = (int)sysconf(_SC_NPROCESSORS_ONLN), used = info.threads * run->comm->node_size;
    if (!device_is_gpu(&info) && used < online && getenv("OMP_NUM_THREADS") == NULL)
        log_warning(
            "%d of this machine's %d cores are used: mpirun binds each rank to one core; start it with --bind-to none",
            used, online);
}
