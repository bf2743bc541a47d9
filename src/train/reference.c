#include "src/train/reference.h"

#include "io/reference_cache.h"
#include "src/base/hash.h"
#include "src/base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Status reference_open(Reference *reference, const Dataset *dataset, const Model *model, const BatchOptions *plan,
                      Comm *comm, const char *folder) {
    const int32_t count = dataset->row_count;
    *reference = (Reference){.count = count, .missing = count};
    TRY(MEMORY_ALLOC(reference->logp, count, "reference log-probs"));
    TRY(MEMORY_ALLOC(reference->logp_kl, count, "reference log-probs"));
    for (int32_t i = 0; i < count; i++) reference->logp[i] = reference->logp_kl[i] = NAN;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    snprintf(reference->key, sizeof reference->key,
             "model %016llx, rows %016llx, dtype %d, %d ranks, micro_batch_tokens %lld, share_prefixes %d, %s",
             (unsigned long long)model->hash, (unsigned long long)dataset->hash, model->options.device.dtype,
             plan->ranks, (long long)plan->micro_batch_tokens, plan->share, info.name);
    snprintf(reference->path, sizeof reference->path, "%s/reference-%016llx.h5", folder,
             (unsigned long long)hash_bytes(0, reference->key, strlen(reference->key)));
    Status status = STATUS_OK;
    if (comm->rank == 0) {
        bool found;
        status =
            reference_cache_read(reference->path, reference->key, reference->logp, reference->logp_kl, count, &found);
    }
    TRY(comm_agree(comm, status));
    const size_t bytes = (size_t)count * sizeof(double);
    TRY(comm_broadcast(comm, "the reference's log-probs", reference->logp, bytes, 0));
    TRY(comm_broadcast(comm, "the reference's log-probs", reference->logp_kl, bytes, 0));
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
