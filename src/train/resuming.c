#include "src/train/resuming.h"

#include "io/checkpoint.h"
#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/train/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Status resuming_refuse_other(const Training *t, const Config *saved, const char *where) {
    char key[64], a[256], b[256];
    if (config_same_run(saved, &t->run.config, key, a, b)) return STATUS_OK;
    const char *output = t->run.config.train.output_dir;
    if (file_exists(t->path_adapter))
        return error_set(STATUS_USAGE,
                         "%s: %s holds another run: %s was %s and is now %s; that run is finished: to go on from its "
                         "result, set lora.init = \"%s\" and another train.output_dir",
                         where, output, key, a, b, t->path_adapter);
    return error_set(STATUS_USAGE,
                     "%s: %s holds another run: %s was %s and is now %s; choose another train.output_dir or "
                     "restore the value",
                     where, output, key, a, b);
}

static void new_run_id(Training *t) {
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    const double facts[] = {clock_unix_seconds(), (double)getpid()};
    uint64_t id = hash_bytes(hash_bytes(0, facts, sizeof facts), host, strlen(host));
    snprintf(t->progress.run_id, sizeof t->progress.run_id, "%016llx", (unsigned long long)id);
}

// Rank 0: the newest checkpoint, if it is of this run.
static Status read_newest(Training *t) {
    char *path = NULL;
    TRY(checkpoint_newest(t->path_checkpoints, &path));
    if (path == NULL) return STATUS_OK;
    Config saved;
    Status status = checkpoint_read(path, &t->resumed);
    if (status == STATUS_OK) status = config_parse(&saved, arch_modules, t->resumed.config, path, 0, NULL);
    if (status == STATUS_OK) status = resuming_refuse_other(t, &saved, path);
    t->path_resumed = path;
    return status;
}

Status resuming_find(Training *t, int64_t *micro_batch_tokens) {
    TRY(comm_agree(t->run.comm, training_speaks(t) ? read_newest(t) : STATUS_OK));
    *micro_batch_tokens = t->resumed.micro_batch_tokens;
    return comm_broadcast(t->run.comm, "the checkpoint's train.micro_batch_tokens", micro_batch_tokens,
                          sizeof *micro_batch_tokens, 0);
}

// Rank 0: whether rows and model are still those of the checkpoint.
static Status check_same(const Training *t) {
    const Run *run = &t->run;
    if (t->resumed.dataset_hash != run->train.hash)
        return error_set(STATUS_USAGE,
                         "%s: the training rows are not those of this run any more; restore %s or choose "
                         "another train.output_dir",
                         t->path_resumed, run->config.data.train);
    if (t->resumed.model_hash != run->model.hash || t->resumed.count != run->model.table.count)
        return error_set(STATUS_USAGE,
                         "%s: the model in %s is not that of this run any more; restore it or choose "
                         "another train.output_dir",
                         t->path_resumed, run->config.model.path);
    return STATUS_OK;
}

// Rank 0's vector, which the others allocate, into a vector of every rank's device.
static Status spread(Training *t, float **host, float *device) {
    Model *model = &t->run.model;
    if (*host == NULL) TRY(MEMORY_ALLOC(*host, model->table.count, "a checkpoint"));
    TRY(comm_broadcast(t->run.comm, "the vectors of a checkpoint", *host, (size_t)model->table.count * sizeof(float),
                       0));
    return model_set(model, device, *host);
}

// Rank 0: the first adapter, as the vector of a checkpoint at step 0.
static Status make_first(Training *t) {
    Model *model = &t->run.model;
    TRY(adapter_first(model, &t->run.config));
    TRY(MEMORY_ALLOC(t->resumed.adapter, model->table.count, "an adapter"));
    return model_get(model, model->adapter, t->resumed.adapter);
}

static Status begin_new(Training *t) {
    if (training_speaks(t)) new_run_id(t);
    TRY(comm_broadcast(t->run.comm, "the state of the run", &t->progress, sizeof t->progress, 0));
    TRY(comm_agree(t->run.comm, training_speaks(t) ? make_first(t) : STATUS_OK));
    TRY(spread(t, &t->resumed.adapter, t->run.model.adapter));
    resuming_close(t);
    return model_adapter_changed(&t->run.model);
}

Status resuming_restore(Training *t) {
    Comm *comm = t->run.comm;
    Model *model = &t->run.model;
    Checkpoint *c = &t->resumed;
    t->progress.best_eval = NAN;
    int64_t found = t->path_resumed != NULL;
    TRY(comm_agree(comm, found ? check_same(t) : STATUS_OK));
    TRY(comm_broadcast(comm, "the search for a checkpoint", &found, sizeof found, 0));
    if (!found) return begin_new(t);
    if (training_speaks(t)) {
        t->progress =
            (Progress){.step = c->step, .skipped = c->skipped, .num_tokens = c->num_tokens, .best_eval = c->best_eval};
        memcpy(t->progress.run_id, c->run_id, sizeof c->run_id);
        log_info("%-8s from %s", "resume", t->path_resumed);
    }
    TRY(comm_broadcast(comm, "the state of the run", &t->progress, sizeof t->progress, 0));
    float **host[] = {&c->adapter, &c->adam_m, &c->adam_v};
    float *device[] = {model->adapter, model->adam_m, model->adam_v};
    for (int i = 0; i < 3; i++) TRY(spread(t, host[i], device[i]));
    t->last_saved_step = t->progress.step;
    resuming_close(t);
    return model_adapter_changed(model);
}

void resuming_close(Training *t) {
    checkpoint_free(&t->resumed);
    free(t->path_resumed);
    t->path_resumed = NULL;
}
