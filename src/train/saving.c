#include "src/train/saving.h"

#include "io/checkpoint.h"
#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/train/adapter.h"

#include <stdlib.h>
#include <string.h>

static Status write_checkpoint(Training *t) {
    Run *run = &t->run;
    Model *model = &run->model;
    TRY(reference_save(&run->train_reference, run->comm));
    TRY(reference_save(&run->eval_reference, run->comm));
    if (t->last_saved_step == t->progress.step) return STATUS_OK;
    Checkpoint c = {.step = t->progress.step,
                    .epoch = (double)t->progress.step / run->train.batch_count,
                    .batch_in_epoch = t->progress.step % run->train.batch_count,
                    .num_tokens = t->progress.num_tokens,
                    .seed = run->config.train.seed,
                    .micro_batch_tokens = run->step.micro_batch_tokens,
                    .best_eval = t->progress.best_eval,
                    .skipped = t->progress.skipped,
                    .dataset_hash = run->train.hash,
                    .model_hash = model->hash,
                    .count = model->table.count,
                    .tensors = model->table.tensors,
                    .tensor_count = model->table.tensor_count};
    memcpy(c.run_id, t->progress.run_id, sizeof c.run_id);
    float **host[] = {&c.adapter, &c.adam_m, &c.adam_v};
    const float *device[] = {model->adapter, model->adam_m, model->adam_v};
    Status status = STATUS_OK;
    for (int i = 0; i < 3 && status == STATUS_OK; i++) {
        status = MEMORY_ALLOC(*host[i], c.count, "a checkpoint");
        if (status == STATUS_OK) status = model_get(model, device[i], *host[i]);
    }
    c.config = config_text(&run->config);
    if (c.config == NULL) status = error_set(STATUS_FAILED, "out of memory for a checkpoint");
    // What belongs to the steps up to here, before it counts: a run that goes on from here goes on with it.
    if (status == STATUS_OK && file_exists(t->path_samples)) status = file_sync(t->path_samples);
    if (status == STATUS_OK) status = file_sync(t->path_metrics);
    if (status == STATUS_OK)
        status = checkpoint_write(t->path_checkpoints, &c, (int)run->config.train.save_total_limit);
    for (int i = 0; i < 3; i++) free(*host[i]);
    free(c.config);
    return status;
}

Status saving_checkpoint(Training *t, bool must) {
    Comm *comm = t->run.comm;
    const Status status = comm_agree(comm, training_speaks(t) ? write_checkpoint(t) : STATUS_OK);
    t->save_again = status == STATUS_FAILED && error_is_shared() && !must;
    if (t->save_again) {
        log_warning("%s; no checkpoint at step %lld, the run goes on and tries again after the next step", error_text(),
                    (long long)t->progress.step);
        error_clear();
        return STATUS_OK;
    }
    TRY(status);
    t->last_saved_step = t->progress.step;
    t->last_save = clock_seconds();
    return STATUS_OK;
}

static Status write_adapter(const Training *t) {
    uint64_t hash;
    TRY(adapter_write((Model *)&t->run.model, &t->run.config, t->path_adapter, &hash));
    log_info("%-8s %s (hash %016llx)", "adapter", t->path_adapter, (unsigned long long)hash);
    return STATUS_OK;
}

Status saving_adapter(Training *t) {
    return comm_agree(t->run.comm, training_speaks(t) ? write_adapter(t) : STATUS_OK);
}
