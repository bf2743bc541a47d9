// One global batch on all ranks. What is computed where was decided by src/batch; what the numbers mean is src/kto's.
#include "src/step.h"

#include "io/reference_cache.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// A row on the wire: its place in the batch, then the scores of its completion, or of a pair's two.
enum { SCORE_LOGP, SCORE_LOGP_KL, SCORE_ENTROPY, SCORE_LOGIT, SCORE_TOKENS, SCORE_FLAGS, STEP_SCORES };
enum { NAMED_ROWS = 32 };

static int32_t row_words(const StepContext *context) {
    return kto_completions(&context->kto) * STEP_SCORES;
}

static double *scores_of(const StepContext *context, int32_t slot, int which) {
    return context->row_scores + (size_t)slot * (size_t)row_words(context) + (size_t)which * STEP_SCORES;
}

Status step_open(StepContext *context, int32_t batch_rows) {
    const int32_t wire_words = 1 + row_words(context);
    TRY(MEMORY_ALLOC(context->rows, batch_rows, "a batch"));
    TRY(MEMORY_ALLOC(context->mine, batch_rows * wire_words, "records"));
    TRY(MEMORY_ALLOC(context->all, batch_rows * wire_words, "records"));
    TRY(MEMORY_ALLOC(context->wire_counts, context->comm->size, "records"));
    TRY(MEMORY_ALLOC(context->row_scores, batch_rows * row_words(context), "records"));
    TRY(MEMORY_ALLOC(context->records, batch_rows * kto_completions(&context->kto), "records"));
    return MEMORY_ALLOC(context->host_gradient, context->model->adapter_count, "gradient");
}

void step_close(StepContext *context) {
    free(context->rows);
    batch_plan_free(&context->plan);
    micro_batch_free(&context->micro);
    free(context->scores.logp);
    free(context->scores.entropy);
    free(context->scores.mean_logit);
    free(context->dlogp);
    free(context->mine);
    free(context->all);
    free(context->wire_counts);
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
    const int32_t words = row_words(context);
    double *to = context->mine;
    for (int32_t i = plan->rank_first[comm->rank]; i < plan->rank_first[comm->rank + 1]; i++) {
        *to++ = plan->slot[i];
        memcpy(to, scores_of(context, plan->slot[i], 0), (size_t)words * sizeof(double));
        to += words;
    }
    for (int32_t r = 0; r < comm->size; r++)
        context->wire_counts[r] = (1 + words) * (plan->rank_first[r + 1] - plan->rank_first[r]);
    double start = clock_seconds();
    TRY(comm_gather(comm, context->mine, context->all, context->wire_counts));
    times->wait_seconds += clock_seconds() - start;
    for (int32_t i = 0; i < plan->count; i++) {
        const double *from = context->all + (size_t)i * (size_t)(1 + words);
        memcpy(scores_of(context, (int32_t)from[0], 0), from + 1, (size_t)words * sizeof(double));
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

typedef struct Walk {
    StepContext *context;
    const Dataset *dataset;
    const Reference *reference;
    StepMode mode;
    Pass pass;
} Walk;

static Status forward(Walk *walk, int32_t index, unsigned roles) {
    StepContext *context = walk->context;
    const BatchPlan *plan = &context->plan;
    const int32_t first = plan->micro_first[index], count = plan->micro_first[index + 1] - first;
    TRY(batch_layout(context->rows, plan->slot + first, count, roles, context->share_prefixes, &context->micro));
    const MicroBatch *micro = &context->micro;
    TRY(reserve_scores(context, micro->n_total - micro->n_prefix));
    Pass pass = walk->pass;
    pass.keep = walk->mode == STEP_TRAIN && (roles & ROLES_POLICY) != 0;
    TRY(model_forward(context->model, micro, &pass, &context->scores));
    collect(context);
    return STATUS_OK;
}

// Backward of the micro-batch that forward() just ran; its rows' own records decide the gradient.
static Status backward(Walk *walk, double z0) {
    StepContext *context = walk->context;
    const MicroBatch *micro = &context->micro;
    make_records(context, walk->dataset, walk->reference);
    const int32_t completions = kto_completions(&context->kto);
    for (int32_t i = 0; i < micro->scored_grad; i++) {
        const Scored *scored = &micro->scored[i];
        const KtoRecord *row = &context->records[scored->slot * completions];
        double gradient = kto_row_gradient(&context->kto, row, z0, context->plan.count);
        if (context->rows[scored->slot].completion[scored->completion].role == ROLE_REJECTED) gradient = -gradient;
        for (int32_t t = 0; t < scored->length; t++) context->dlogp[scored->first + t] = (float)gradient;
    }
    Pass pass = walk->pass;
    pass.keep = true;
    return model_backward(context->model, micro, &pass, context->dlogp);
}

static Status sum_gradient(StepContext *context, StepTimes *times) {
    if (context->comm->size == 1) return STATUS_OK;
    Model *model = context->model;
    if (context->device_comm != NULL) {
        TRY(model->options.backend->sync(model->device)); // the backward's own time is not communication
        double start = clock_seconds();
        TRY(device_comm_sum_start(context->device_comm, model->gradient, (size_t)model->adapter_count));
        TRY(device_comm_wait(context->device_comm));
        times->comm_seconds += clock_seconds() - start;
        return STATUS_OK;
    }
    TRY(model_get(model, model->gradient, context->host_gradient));
    double start = clock_seconds();
    CommRequest request;
    TRY(comm_sum_start(context->comm, context->host_gradient, (size_t)model->adapter_count, &request));
    TRY(comm_wait(context->comm, &request));
    times->comm_seconds += clock_seconds() - start;
    return model_set(model, model->gradient, context->host_gradient);
}

// Tokens that all ranks run through the model for this batch.
static double computed_tokens(const StepContext *context) {
    BatchOptions options = {.ranks = context->comm->size,
                            .micro_batch_tokens = context->micro_batch_tokens,
                            .share = context->share_prefixes};
    TokenCount tokens = batch_computed(context->rows, &context->plan, &options);
    return (double)(tokens.prefix + tokens.policy + tokens.kl);
}

// The batch's rows, and who computes what of them.
static Status plan_batch(StepContext *context, const Dataset *dataset, int32_t batch) {
    dataset_batch(dataset, batch, context->rows);
    const BatchOptions options = {.rank = context->comm->rank,
                                  .ranks = context->comm->size,
                                  .micro_batch_tokens = context->micro_batch_tokens,
                                  .share = context->share_prefixes};
    return batch_plan(context->rows, dataset_batch_rows(dataset, batch), &options, &context->plan);
}

Status step_run(StepContext *context, const Dataset *dataset, int32_t batch, StepMode mode, int64_t step,
                Reference *reference, MetricsRow *out, StepTimes *times) {
    const int32_t count = dataset_batch_rows(dataset, batch), completions = kto_completions(&context->kto);
    const bool train = mode == STEP_TRAIN;
    const BatchPlan *plan = &context->plan;
    TRY(plan_batch(context, dataset, batch));
    for (int32_t i = 0; i < count * row_words(context); i++) context->row_scores[i] = 0;

    const uint64_t key[] = {context->seed, (uint64_t)step};
    Walk walk = {
        .context = context,
        .dataset = dataset,
        .reference = reference,
        .mode = mode,
        .pass = {.adapters = mode != STEP_REFERENCE, .dropout = train, .dropout_key = hash_bytes(0, key, sizeof key)}};
    double z0 = 0;
    if (train) TRY(model_zero_gradient(context->model));
    if (plan->two_pass) {
        for (int32_t i = 0; i < plan->micro_count; i++) TRY(forward(&walk, i, ROLES_KL_ONLY));
        if (train) {
            TRY(exchange(context, times));
            make_records(context, dataset, reference);
            z0 = kto_z0(&context->kto, context->records, count);
        }
        for (int32_t i = 0; i < plan->micro_count; i++) {
            TRY(forward(&walk, i, ROLES_POLICY));
            if (train) TRY(backward(&walk, z0));
        }
    } else {
        // One micro-batch a rank, or no y': then z0 is 0 and no row waits for another's.
        const bool wait_for_z0 = context->kto.loss == LOSS_KTO;
        for (int32_t i = 0; i < plan->micro_count; i++) {
            TRY(forward(&walk, i, ROLES_ALL));
            if (train && !wait_for_z0) TRY(backward(&walk, 0));
        }
        if (train && wait_for_z0) {
            TRY(exchange(context, times));
            make_records(context, dataset, reference);
            z0 = kto_z0(&context->kto, context->records, count);
            if (plan->micro_count > 0) TRY(backward(&walk, z0));
        }
    }
    if (!train || plan->two_pass || context->kto.loss != LOSS_KTO) TRY(exchange(context, times));
    if (train) TRY(sum_gradient(context, times));

    if (mode == STEP_REFERENCE) {
        for (int32_t i = 0; i < count; i++)
            for (int which = 0; which < completions; which++) {
                const int32_t row = dataset_row(&context->rows[i], which);
                reference->logp[row] = scores_of(context, i, which)[SCORE_LOGP];
                reference->logp_kl[row] = scores_of(context, i, which)[SCORE_LOGP_KL];
            }
        reference->missing -= count * completions;
        reference->changed = true;
        return STATUS_OK;
    }
    make_records(context, dataset, reference);
    kto_metrics(&context->kto, context->records, count, kto_z0(&context->kto, context->records, count), out);
    out->computed_tokens = computed_tokens(context);
    out->num_tokens = 0;
    for (int32_t i = 0; i < count * completions; i++) out->num_tokens += context->records[i].tokens;
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
            batch_count(context->rows, plan->slot + first, count, ROLES_ALL, context->share_prefixes);
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
    Walk walk = {.context = context, .dataset = dataset, .mode = STEP_TRAIN, .pass = {.adapters = true}};
    const int32_t largest = largest_micro_batch(context);
    if (context->model->options.lora_dropout > 0) TRY(forward(&walk, largest, ROLES_ALL));
    walk.pass.dropout = walk.pass.keep = true;
    TRY(forward(&walk, largest, ROLES_ALL));
    memset(context->dlogp, 0, (size_t)context->score_capacity * sizeof *context->dlogp);
    return model_backward(context->model, &context->micro, &walk.pass, context->dlogp);
}

Status step_warm(StepContext *context, const Dataset *dataset, int32_t batch, int64_t tokens) {
    const Model *model = context->model;
    const Backend *backend = model->options.backend;
    if (backend->warm == NULL) return STATUS_OK;
    TRY(plan_batch(context, dataset, batch));
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

// --- reference log-probs --------------------------------------------------------------------------------------------

Status reference_open(Reference *reference, const Dataset *dataset, const StepContext *context, const char *folder) {
    const int32_t count = dataset->row_count;
    *reference = (Reference){.count = count, .missing = count};
    TRY(MEMORY_ALLOC(reference->logp, count, "reference log-probs"));
    TRY(MEMORY_ALLOC(reference->logp_kl, count, "reference log-probs"));
    for (int32_t i = 0; i < count; i++) reference->logp[i] = reference->logp_kl[i] = NAN;
    DeviceInfo info;
    context->model->options.backend->info(context->model->device, &info);
    snprintf(reference->key, sizeof reference->key,
             "model %016llx, rows %016llx, dtype %d, %d ranks, micro_batch_tokens %lld, share_prefixes %d, %s",
             (unsigned long long)context->model->hash, (unsigned long long)dataset->hash,
             context->model->options.device.dtype, context->comm->size, (long long)context->micro_batch_tokens,
             context->share_prefixes, info.name);
    snprintf(reference->path, sizeof reference->path, "%s/reference-%016llx.h5", folder,
             (unsigned long long)hash_bytes(0, reference->key, strlen(reference->key)));
    Status status = STATUS_OK;
    if (context->comm->rank == 0) {
        bool found;
        status =
            reference_cache_read(reference->path, reference->key, reference->logp, reference->logp_kl, count, &found);
    }
    TRY(comm_agree(context->comm, status));
    const size_t bytes = (size_t)count * sizeof(double);
    TRY(comm_broadcast(context->comm, reference->logp, bytes, 0));
    TRY(comm_broadcast(context->comm, reference->logp_kl, bytes, 0));
    reference->missing = 0;
    for (int32_t i = 0; i < count; i++) reference->missing += isnan(reference->logp[i]) != 0;
    return STATUS_OK;
}

Status reference_save(Reference *reference, Comm *comm) {
    if (!reference->changed) return STATUS_OK;
    if (comm->rank == 0)
        TRY(reference_cache_write(reference->path, reference->key, reference->logp, reference->logp_kl,
                                  reference->count));
    reference->changed = false;
    return STATUS_OK;
}

void reference_close(Reference *reference) {
    free(reference->logp);
    free(reference->logp_kl);
    *reference = (Reference){0};
}

bool reference_has(const Reference *reference, const Dataset *dataset, int32_t batch) {
    const int32_t *rows = dataset->order + (int64_t)batch * dataset->batch_size;
    for (int32_t i = 0; i < dataset_batch_rows(dataset, batch); i++)
        if (isnan(reference->logp[rows[i]])) return false; // a pair's two come together
    return true;
}
