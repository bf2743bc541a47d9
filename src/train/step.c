// One global batch on all ranks. What is computed where was decided by src/data/batch; what the numbers mean is
// src/train/kto's.
#include "src/train/step.h"

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// A row's scores: those of its completion, or of a pair's two. On the wire its place in the batch goes before them.
enum { SCORE_LOGP, SCORE_LOGP_KL, SCORE_ENTROPY, SCORE_LOGIT, SCORE_TOKENS, SCORE_FLAGS, STEP_SCORES };
enum { NAMED_ROWS = 32 };

static int32_t row_words(const StepContext *context) {
    return kto_completions(&context->kto) * STEP_SCORES;
}

static size_t wire_row_bytes(const StepContext *context) {
    return sizeof(int64_t) + (size_t)row_words(context) * sizeof(double);
}

static double *scores_of(const StepContext *context, int32_t slot, int which) {
    return context->row_scores + (size_t)slot * (size_t)row_words(context) + (size_t)which * STEP_SCORES;
}

Status step_open(StepContext *context, int32_t batch_rows) {
    const size_t wire = (size_t)batch_rows * wire_row_bytes(context);
    TRY(MEMORY_ALLOC(context->rows, batch_rows, "a batch"));
    TRY(MEMORY_ALLOC(context->mine, wire, "records"));
    TRY(MEMORY_ALLOC(context->all, wire, "records"));
    TRY(MEMORY_ALLOC(context->wire_bytes, context->comm->size, "records"));
    TRY(MEMORY_ALLOC(context->row_scores, batch_rows * row_words(context), "records"));
    TRY(MEMORY_ALLOC(context->records, batch_rows * kto_completions(&context->kto), "records"));
    return MEMORY_ALLOC(context->host_gradient, context->model->table.count, "gradient");
}

void step_close(StepContext *context) {
    free(context->rows);
    batch_plan_free(&context->plan);
    micro_batch_free(&context->micro);
    free(context->passes);
    free(context->scores.logp);
    free(context->scores.entropy);
    free(context->scores.mean_logit);
    free(context->dlogp);
    free(context->mine);
    free(context->all);
    free(context->wire_bytes);
    free(context->row_scores);
    free(context->records);
    free(context->host_gradient);
    device_comm_close(context->device_comm);
}

static Status reserve_scores(StepContext *context, int64_t tokens) {
    if (tokens <= context->score_capacity) return STATUS_OK;
    float **all[] = {&context->scores.logp, &context->scores.entropy, &context->scores.mean_logit, &context->dlogp};
    for (int i = 0; i < 4; i++) {
        free(*all[i]);
        *all[i] = NULL;
        TRY(MEMORY_ALLOC(*all[i], tokens, "token scores"));
    }
    context->score_capacity = tokens;
    return STATUS_OK;
}

// Sums of a completion's token scores, in token order, into the row's scores.
static void collect(StepContext *context) {
    const MicroBatch *micro = &context->micro;
    for (int32_t i = 0; i < micro->scored_count; i++) {
        const Scored *scored = &micro->scored[i];
        double logp = 0, entropy = 0, logit = 0;
        for (int32_t t = scored->first; t < scored->first + scored->length; t++) {
            logp += context->scores.logp[t];
            entropy += context->scores.entropy[t];
            logit += context->scores.mean_logit[t];
        }
        const Role role = context->rows[scored->slot].completion[scored->completion].role;
        double *row = scores_of(context, scored->slot, role == ROLE_REJECTED);
        if (role == ROLE_KL) {
            row[SCORE_LOGP_KL] = logp;
            continue;
        }
        row[SCORE_LOGP] = logp;
        row[SCORE_ENTROPY] = entropy;
        row[SCORE_LOGIT] = logit;
        row[SCORE_TOKENS] = scored->length;
    }
}

// Every rank's rows to every rank.
static Status exchange(StepContext *context, StepTimes *times) {
    const BatchPlan *plan = &context->plan;
    Comm *comm = context->comm;
    const size_t row = wire_row_bytes(context), scores = row - sizeof(int64_t);
    char *to = context->mine;
    for (int32_t i = plan->rank_first[comm->rank]; i < plan->rank_first[comm->rank + 1]; i++, to += row) {
        const int64_t slot = plan->slot[i];
        memcpy(to, &slot, sizeof slot);
        memcpy(to + sizeof slot, scores_of(context, plan->slot[i], 0), scores);
    }
    for (int32_t r = 0; r < comm->size; r++)
        context->wire_bytes[r] = row * (size_t)(plan->rank_first[r + 1] - plan->rank_first[r]);
    double start = clock_seconds();
    TRY(comm_gather(comm, "the exchange of records", context->mine, context->wire_bytes, context->all));
    times->wait_seconds += clock_seconds() - start;
    const char *from = context->all;
    for (int32_t i = 0; i < plan->count; i++, from += row) {
        int64_t slot;
        memcpy(&slot, from, sizeof slot);
        memcpy(scores_of(context, (int32_t)slot, 0), from + sizeof slot, scores);
    }
    return STATUS_OK;
}

static int32_t dataset_row(const BatchRow *row, int which) {
    return which == 0 ? row->row : row->rejected_row;
}

static void make_records(StepContext *context, const Dataset *dataset, const Reference *reference) {
    const int32_t completions = kto_completions(&context->kto);
    KtoRecord *to = context->records;
    for (int32_t i = 0; i < context->plan.count; i++)
        for (int which = 0; which < completions; which++) {
            const BatchRow *row = &context->rows[i];
            const double *scores = scores_of(context, i, which);
            const int32_t index = dataset_row(row, which);
            *to++ = (KtoRecord){
                .logp = scores[SCORE_LOGP],
                .logp_kl = scores[SCORE_LOGP_KL],
                .ref_logp = reference->logp[index],
                .ref_logp_kl = reference->logp_kl[index],
                .entropy_sum = scores[SCORE_ENTROPY],
                .logit_sum = scores[SCORE_LOGIT],
                .scored_tokens = scores[SCORE_TOKENS],
                .tokens = row->prompt_length + row->completion[which].length,
                .weight = (double)dataset->rows[index].weight,
                .desirable = dataset->rows[index].label == 1,
            };
        }
}

// One batch on its way through its passes.
typedef struct Walk {
    StepContext *context;
    const Dataset *dataset;
    const Reference *reference;
    Pass pass;
    double z0; // since the last exchange
} Walk;

static Status forward(Walk *walk, const StepPass *step, bool train) {
    StepContext *context = walk->context;
    const BatchPlan *plan = &context->plan;
    const int32_t first = plan->micro_first[step->micro], count = plan->micro_first[step->micro + 1] - first;
    TRY(batch_layout(context->rows, plan->slot + first, count, step->roles, context->share_prefixes, &context->micro));
    const MicroBatch *micro = &context->micro;
    TRY(reserve_scores(context, micro->n_total - micro->n_prefix));
    walk->pass.keep = train && (step->roles & ROLES_POLICY) != 0;
    TRY(model_forward(context->model, micro, &walk->pass, &context->scores));
    collect(context);
    return STATUS_OK;
}

// Backward of the micro-batch that forward() just ran; its rows' own records decide the gradient.
static Status backward(Walk *walk) {
    StepContext *context = walk->context;
    const MicroBatch *micro = &context->micro;
    make_records(context, walk->dataset, walk->reference);
    const int32_t completions = kto_completions(&context->kto);
    for (int32_t i = 0; i < micro->scored_grad; i++) {
        const Scored *scored = &micro->scored[i];
        const KtoRecord *row = &context->records[scored->slot * completions];
        double gradient = kto_row_gradient(&context->kto, row, walk->z0, context->plan.count);
        if (context->rows[scored->slot].completion[scored->completion].role == ROLE_REJECTED) gradient = -gradient;
        for (int32_t t = 0; t < scored->length; t++) context->dlogp[scored->first + t] = (float)gradient;
    }
    return model_backward(context->model, micro, &walk->pass, context->dlogp);
}

static Status exchange_records(Walk *walk, StepTimes *times) {
    StepContext *context = walk->context;
    TRY(exchange(context, times));
    make_records(context, walk->dataset, walk->reference);
    walk->z0 = kto_z0(&context->kto, context->records, context->plan.count);
    return STATUS_OK;
}

static Status sum_gradient(StepContext *context, StepTimes *times) {
    if (context->comm->size == 1) return STATUS_OK;
    Model *model = context->model;
    if (context->device_comm != NULL) {
        TRY(model->options.backend->sync(model->device)); // the backward's own time is not communication
        double start = clock_seconds();
        TRY(device_comm_sum_start(context->device_comm, model->gradient, (size_t)model->table.count));
        TRY(device_comm_wait(context->device_comm));
        times->comm_seconds += clock_seconds() - start;
        return STATUS_OK;
    }
    TRY(model_get(model, model->gradient, context->host_gradient));
    double start = clock_seconds();
    CommRequest request;
    TRY(comm_sum_start(context->comm, "the sum of gradients", context->host_gradient, (size_t)model->table.count,
                       &request));
    TRY(comm_wait(context->comm, &request));
    times->comm_seconds += clock_seconds() - start;
    return model_set(model, model->gradient, context->host_gradient);
}

BatchOptions step_batch_options(const StepContext *context) {
    return (BatchOptions){.rank = context->comm->rank,
                          .ranks = context->comm->size,
                          .micro_batch_tokens = context->micro_batch_tokens,
                          .share = context->share_prefixes};
}

// The batch's rows, its plan and its passes; *passes gets how many.
static Status plan_batch(StepContext *context, const Dataset *dataset, int32_t batch, bool train, int32_t *passes) {
    const BatchOptions options = step_batch_options(context);
    const int32_t count = dataset_batch_rows(dataset, batch);
    dataset_batch(dataset, batch, context->rows);
    TRY(batch_plan(context->rows, count, &options, &context->plan));
    const int32_t most = step_passes_max(&context->plan);
    if (most > context->pass_capacity) {
        free(context->passes);
        context->pass_capacity = 0;
        TRY(MEMORY_ALLOC(context->passes, most, "the passes of a batch"));
        context->pass_capacity = most;
    }
    *passes = step_passes(&context->plan, train, kto_loss(context->kto.loss)->needs_z0, context->passes);
    for (int32_t i = 0; i < count * row_words(context); i++) context->row_scores[i] = 0;
    return STATUS_OK;
}

static void fill_reference(const StepContext *context, Reference *reference) {
    const int32_t completions = kto_completions(&context->kto), count = context->plan.count;
    for (int32_t i = 0; i < count; i++)
        for (int which = 0; which < completions; which++) {
            const int32_t row = dataset_row(&context->rows[i], which);
            reference->logp[row] = scores_of(context, i, which)[SCORE_LOGP];
            reference->logp_kl[row] = scores_of(context, i, which)[SCORE_LOGP_KL];
        }
    reference->missing -= count * completions;
    reference->changed = true;
}

static void fill_metrics(const StepContext *context, double z0, MetricsRow *out) {
    const int32_t count = context->plan.count;
    kto_metrics(&context->kto, context->records, count, z0, out);
    const BatchOptions options = step_batch_options(context);
    const TokenCount tokens = batch_computed(context->rows, &context->plan, &options);
    out->computed_tokens = (double)(tokens.prefix + tokens.policy + tokens.kl); // by all ranks
    out->num_tokens = 0;
    for (int32_t i = 0; i < count * kto_completions(&context->kto); i++) out->num_tokens += context->records[i].tokens;
}

Status step_run(StepContext *context, const Dataset *dataset, int32_t batch, StepMode mode, int64_t step,
                Reference *reference, MetricsRow *out, StepTimes *times) {
    const bool train = mode == STEP_TRAIN;
    const uint64_t key[] = {context->seed, (uint64_t)step};
    Walk walk = {
        .context = context,
        .dataset = dataset,
        .reference = reference,
        .pass = {.adapters = mode != STEP_REFERENCE, .dropout = train, .dropout_key = hash_bytes(0, key, sizeof key)}};
    int32_t passes;
    TRY(plan_batch(context, dataset, batch, train, &passes));
    if (train) TRY(model_zero_gradient(context->model));
    for (int32_t i = 0; i < passes; i++) switch (context->passes[i].kind) {
        case PASS_FORWARD:
            TRY(forward(&walk, &context->passes[i], train));
            break;
        case PASS_EXCHANGE:
            TRY(exchange_records(&walk, times));
            break;
        case PASS_BACKWARD:
            TRY(backward(&walk));
            break;
        }
    if (train) TRY(sum_gradient(context, times));
    if (mode == STEP_REFERENCE)
        fill_reference(context, reference);
    else
        fill_metrics(context, walk.z0, out);
    return STATUS_OK;
}

// --- before the first step ------------------------------------------------------------------------------------------

// This rank's micro-batch with the most tokens.
static int32_t largest_micro_batch(const StepContext *context) {
    const BatchPlan *plan = &context->plan;
    int64_t most = 0;
    int32_t largest = 0;
    for (int32_t i = 0; i < plan->micro_count; i++) {
        const int32_t first = plan->micro_first[i], count = plan->micro_first[i + 1] - first;
        const TokenCount tokens =
            batch_count(context->rows, plan->slot + first, count, ROLES_ALL, context->share_prefixes, plan->scratch);
        const int64_t all = tokens.prefix + tokens.policy + tokens.kl;
        if (all > most) {
            most = all;
            largest = i;
        }
    }
    return largest;
}

// With dropout, as in training, and without, as in evaluation.
static Status warm_passes(StepContext *context, const Dataset *dataset) {
    Walk walk = {.context = context, .dataset = dataset, .pass = {.adapters = true}};
    const StepPass largest = {PASS_FORWARD, largest_micro_batch(context), ROLES_ALL};
    if (context->model->options.lora_dropout > 0) TRY(forward(&walk, &largest, true));
    walk.pass.dropout = true;
    TRY(forward(&walk, &largest, true));
    memset(context->dlogp, 0, (size_t)context->score_capacity * sizeof *context->dlogp);
    return model_backward(context->model, &context->micro, &walk.pass, context->dlogp);
}

Status step_warm(StepContext *context, const Dataset *dataset, int32_t batch, int64_t tokens) {
    const Model *model = context->model;
    const Backend *backend = model->options.backend;
    if (backend->warm == NULL) return STATUS_OK;
    int32_t passes;
    TRY(plan_batch(context, dataset, batch, true, &passes));
    if (context->plan.micro_count == 0) return STATUS_OK; // this rank is idle
    backend->warm(model->device, (int32_t)tokens);
    const Status status = warm_passes(context, dataset);
    backend->warm(model->device, 0);
    TRY(status);
    return backend->sync(model->device);
}

// --- the rows of a bad step -----------------------------------------------------------------------------------------

// Whether the log-probs of row i of the last batch are.
static bool is_finite(const StepContext *context, int32_t i) {
    const int32_t completions = kto_completions(&context->kto);
    for (const KtoRecord *r = &context->records[i * completions]; r < &context->records[(i + 1) * completions]; r++)
        if (!isfinite(r->logp) || !isfinite(r->logp_kl) || !isfinite(r->ref_logp) || !isfinite(r->ref_logp_kl))
            return false;
    return true;
}

void step_name_rows(const StepContext *context, const Dataset *dataset, char *text, size_t size) {
    const int32_t count = context->plan.count;
    int32_t bad = 0, named = 0;
    for (int32_t i = 0; i < count; i++) bad += !is_finite(context, i);
    size_t used = (size_t)snprintf(text, size, "%s:", dataset->path);
    for (int32_t i = 0; i < count && named < NAMED_ROWS; i++) {
        if (bad > 0 && is_finite(context, i)) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%u", named++ > 0 ? ", " : "",
                                 dataset->rows[context->rows[i].row].line);
    }
    const int32_t all = bad > 0 ? bad : count;
    if (all > named) snprintf(text + used, size - used, " and %d more rows", (int)(all - named));
}
