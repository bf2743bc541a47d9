#include "src/setup/memory_plan.h"

#include "src/data/plan_walk.h"
#include "src/setup/device.h"

#define MICRO_BATCH_TOKENS_MAX (1 << 22)
// Scratch of the CUDA device where its module is not there to ask: logits, cuBLASLt's workspace, LoRA and attention.
#define ASSUMED_SCRATCH ((size_t)256 << 20)

// Bytes that this rank may take for activations and scratch: from total memory and the configuration alone, so that a
// resumed run finds the same. The ranks of a machine share the CPU's memory and one copy of the weights in it; on a GPU
// each rank has its own copy.
static double working_room(const Run *run) {
    const Model *model = &run->model;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    const double usable = (double)info.total_memory * MEMORY_PLAN_SHARE, weights = (double)model->memory.weights;
    const double mine =
        device_is_gpu(&info) ? usable / run->device_ranks - weights : (usable - weights) / run->comm->node_size;
    return mine - (double)model->memory.adapters;
}

double memory_plan_working_bytes(const ModelConfig *model, const ModelOptions *options, int64_t keep, int64_t all) {
    const size_t scratch = options->backend != NULL ? model_scratch_bytes(model, options, all) : ASSUMED_SCRATCH;
    return (double)(model_activation_bytes(model, options, keep, all) + scratch);
}

int64_t memory_plan_largest_micro_batch(const ModelConfig *model, const ModelOptions *options, double room) {
    int64_t low = 0, high = MICRO_BATCH_TOKENS_MAX;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (memory_plan_working_bytes(model, options, middle, middle) <= room)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// The largest budget that fits on every rank.
static Status largest_on_all(Run *run, int64_t *out) {
    const Model *model = &run->model;
    int64_t most = -memory_plan_largest_micro_batch(&model->config, &model->options, working_room(run));
    TRY(comm_max(run->comm, "the choice of train.micro_batch_tokens", &most, 1));
    *out = -most;
    if (*out > 0) return STATUS_OK;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    return error_set(STATUS_USAGE, "the model and its adapters do not fit this device's memory of %.1f GiB",
                     (double)info.total_memory / 0x1p30);
}

Status memory_plan_choose(Run *run, int64_t saved) {
    const int64_t asked = run->config.train.micro_batch_tokens;
    run->step.micro_batch_tokens = asked > 0 ? asked : saved;
    return run->step.micro_batch_tokens > 0 ? STATUS_OK : largest_on_all(run, &run->step.micro_batch_tokens);
}

static Status add_layout(void *argument, int32_t batch, const BatchRow *rows, const BatchPlan *plan,
                         const BatchOptions *options) {
    LayoutSize *size = argument;
    for (int32_t i = 0; i < plan->micro_count; i++) {
        const int32_t *slot = plan->slot + plan->micro_first[i];
        const TokenCount tokens = batch_count(rows, slot, plan->micro_first[i + 1] - plan->micro_first[i], ROLES_ALL,
                                              options->share, plan->scratch);
        const int64_t keep = tokens.prefix + tokens.policy, all = keep + tokens.kl;
        size->keep = keep > size->keep ? keep : size->keep;
        if (all > size->all) {
            size->all = all;
            size->batch = batch;
        }
        size->total.prefix += tokens.prefix;
        size->total.policy += tokens.policy;
        size->total.kl += tokens.kl;
    }
    return STATUS_OK;
}

Status memory_plan_measure(const Run *run, const Dataset *dataset, int first_rank, int end_rank, LayoutSize *size) {
    const BatchOptions options = step_batch_options(&run->step);
    return plan_walk(dataset, &options, 1, first_rank, end_rank, add_layout, size);
}

Status memory_plan_reserve(Run *run) {
    const int rank = run->comm->rank;
    LayoutSize train = {0}, eval = {0};
    TRY(memory_plan_measure(run, &run->train, rank, rank + 1, &train));
    if (run->eval.count > 0) TRY(memory_plan_measure(run, &run->eval, rank, rank + 1, &eval));
    const int64_t all = train.all > eval.all ? train.all : eval.all;
    const Model *model = &run->model;
    const double needed = memory_plan_working_bytes(&model->config, &model->options, train.keep, all),
                 room = working_room(run);
    if (needed > room)
        return error_set(
            STATUS_USAGE,
            "train.micro_batch_tokens = %lld: the largest micro-batch has %lld tokens and needs %.0f MiB, and "
            "rank %d has room for %.0f beside weights and adapters; set at most %lld, and let no row be longer "
            "(data.max_length); train.recompute = \"layer\" needs less",
            (long long)run->step.micro_batch_tokens, (long long)all, needed / 0x1p20, rank,
            room > 0 ? room / 0x1p20 : 0,
            (long long)memory_plan_largest_micro_batch(&model->config, &model->options, room));
    run->tokens_max = all;
    run->largest_batch = train.batch;
    return model_reserve(&run->model, train.keep, all);
}
