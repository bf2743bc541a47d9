#include "src/setup/tuned.h"

#include "io/checkpoint.h"
#include "io/files.h"
#include "src/base/memory.h"
#include "src/setup/run.h"
#include "src/train/adapter.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

// The final adapter of the run in `dir`, or its newest checkpoint.
static Status load_tuned(Run *run, const char *dir, char *from) {
    char adapter[PATH_MAX], checkpoints[PATH_MAX];
    snprintf(adapter, sizeof adapter, "%s/adapter", dir);
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", dir);
    Model *model = &run->model;
    const bool finished = file_exists(adapter);
    char *newest = NULL;
    Checkpoint checkpoint = {0};
    Status status = checkpoint_newest(checkpoints, &newest);
    if (status == STATUS_OK && newest == NULL && !finished)
        status = error_set(
            STATUS_USAGE,
            "%s: no adapter and no checkpoint yet; train first (kto sample and kto chat also take --base)", dir);
    if (status == STATUS_OK && newest != NULL) status = checkpoint_read(newest, &checkpoint);
    // An adapter folder does not say of which weights it is; its run's checkpoint does.
    if (status == STATUS_OK && newest != NULL && checkpoint.model_hash != model->hash)
        status = error_set(
            STATUS_DATA,
            "%s: is of base weights with hash %016llx, but those of %s have %016llx; give model.path the "
            "model that the run was trained on",
            newest, (unsigned long long)checkpoint.model_hash, run->config.model.path, (unsigned long long)model->hash);
    if (status == STATUS_OK && newest != NULL && checkpoint.count != model->table.count)
        status = error_set(STATUS_DATA, "%s: has %lld adapter weights, but the run's configuration makes %lld", newest,
                           (long long)checkpoint.count, (long long)model->table.count);
    if (status == STATUS_OK) snprintf(from, PATH_MAX, "%s", finished ? adapter : newest);
    if (status == STATUS_OK && finished) status = adapter_read(model, adapter);
    if (status == STATUS_OK && !finished) status = model_set(model, model->adapter, checkpoint.adapter);
    if (status == STATUS_OK && !finished) status = model_adapter_changed(model);
    checkpoint_free(&checkpoint);
    free(newest);
    return status;
}

// A configuration, or the one in a run directory.
static Status load_config(Run *run, const char *source, bool is_run, const char *path) {
    struct stat file;
    if (!is_run && stat(source, &file) == 0 && S_ISDIR(file.st_mode))
        return error_set(STATUS_USAGE, "%s: holds no config.cfg; give a run's folder or a configuration", source);
    return config_load(&run->config, arch_modules, is_run ? path : source, 0, NULL);
}

Status tuned_open(Run *run, const char *source, bool adapters, char *from) {
    char path[PATH_MAX], unused[PATH_MAX];
    if (from == NULL) from = unused;
    from[0] = '\0';
    snprintf(path, sizeof path, "%s/config.cfg", source);
    const bool is_run = file_exists(path);
    TRY(comm_agree(run->comm, load_config(run, source, is_run, path)));
    TRY(run_apply_config(run));
    if (!adapters) run->config.lora.r = 0; // the base model needs none
    TRY(run_open(run, RUN_MODEL, 0));
    if (!adapters) return STATUS_OK;
    return comm_agree(run->comm, load_tuned(run, is_run ? source : run->config.train.output_dir, from));
}

Status tuned_copy_model(Run *run, Model *out) {
    ModelOptions options = run->model.options;
    options.opened = NULL;
    float *adapter = NULL;
    TRY(model_open(out, run->config.model.path, &options, run->comm));
    TRY(MEMORY_ALLOC(adapter, out->table.count, "the adapter"));
    Status status = model_get(&run->model, run->model.adapter, adapter);
    if (status == STATUS_OK) status = model_set(out, out->adapter, adapter);
    if (status == STATUS_OK) status = model_adapter_changed(out);
    free(adapter);
    return status;
}
