// `kto export`: what a run has learnt, as a folder that other programs read. Host files only: no ranks and no device.
// Merging is merge.c's, the README of the folder model_card.c's.
#include "src/commands/commands.h"

#include "comm/stop.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/peft.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/names.h"
#include "src/commands/model_card.h"
#include "src/model/merge.h"
#include "src/setup/run.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_BYTES      5000000000 // transformers' "5GB"
#define SHARD_BYTES_MAX  9007199254740992.0
#define COPIED_BYTES_MAX (1u << 30) // of a tokenizer's file
#define NEWEST_TRIES     3

static const char *const formats[] = {"peft", "merged", NULL};
enum { FORMAT_PEFT, FORMAT_MERGED };
static const char *const dtypes[] = {"base", "float32", "float16", "bfloat16", NULL}; // then TensorType's order

typedef struct Arguments {
    const char *out, *model, *base_name;
    int format, dtype;
    int64_t checkpoint, shard_bytes;
} Arguments;

// A run's adapter and the base model that it belongs to.
typedef struct Export {
    const Arguments *arguments;
    const char *run_dir;
    Config config;
    ModelConfig model;
    TensorFiles *base;
    uint64_t base_hash;
    AdapterTable table;
    float *adapter; // [table.count]
    int64_t step;   // -1: not known
    char from[PATH_MAX];
} Export;

static Status join(char path[PATH_MAX], const char *folder, const char *name) {
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX) return STATUS_OK;
    return error_set(STATUS_USAGE, "%s: the path is too long", folder);
}

// --- the adapter ----------------------------------------------------------------------------------------------------

static Status open_base(Export *e) {
    char path[PATH_MAX];
    TRY(join(path, e->run_dir, "config.cfg"));
    if (!file_exists(path))
        return error_set(STATUS_USAGE, "%s: holds no run (no config.cfg); name the train.output_dir of one",
                         e->run_dir);
    TRY(config_load(&e->config, arch_modules, path, 0, NULL));
    if (e->arguments->model != NULL) {
        if (strlen(e->arguments->model) >= sizeof e->config.model.path)
            return error_set(STATUS_USAGE, "--model %s: the path is too long", e->arguments->model);
        strcpy(e->config.model.path, e->arguments->model);
    }
    TRY(model_config_read(&e->model, e->config.model.path));
    TRY(tensor_files_open(&e->base, e->config.model.path));
    e->base_hash = tensor_files_hash(e->base);
    bool targets[ARCH_MODULES];
    names_read(arch_modules, e->config.lora.target_modules, targets);
    TRY(adapter_table_make(&e->model, (int32_t)e->config.lora.r, targets, &e->table));
    return MEMORY_ALLOC(e->adapter, e->table.count, "an adapter");
}

static Status check_checkpoint(const Export *e, const char *path, const Checkpoint *c) {
    if (c->model_hash != e->base_hash)
        return error_set(STATUS_DATA,
                         "%s: was trained on another model than the one in %s; restore that, or name its folder with "
                         "--model",
                         path, e->config.model.path);
    bool same = c->count == e->table.count && c->tensor_count == e->table.tensor_count;
    for (int32_t i = 0; i < e->table.tensor_count && same; i++) {
        const AdapterTensor *a = &c->tensors[i], *b = &e->table.tensors[i];
        same = strcmp(a->name, b->name) == 0 && a->offset == b->offset && a->rows == b->rows && a->cols == b->cols;
    }
    if (same) return STATUS_OK;
    return error_set(STATUS_DATA, "%s: holds an adapter of other layers or another rank than %s/config.cfg says", path,
                     e->run_dir);
}

static Status take_checkpoint(Export *e, const char *path) {
    Checkpoint c;
    TRY(checkpoint_read(path, &c));
    Status status = check_checkpoint(e, path, &c);
    if (status == STATUS_OK) {
        memcpy(e->adapter, c.adapter, (size_t)c.count * sizeof *c.adapter);
        e->step = c.step;
        snprintf(e->from, sizeof e->from, "%s", path);
    }
    checkpoint_free(&c);
    return status;
}

// The one that --checkpoint names.
static Status take_step(Export *e, const char *dir) {
    char path[PATH_MAX], there[256] = "none";
    checkpoint_path(path, dir, e->arguments->checkpoint);
    if (file_exists(path)) return take_checkpoint(e, path);
    int64_t *steps = NULL;
    size_t count = 0, used = 0;
    TRY(checkpoint_steps(dir, &steps, &count));
    for (size_t i = 0; i < count && used < sizeof there - 32; i++)
        used += (size_t)snprintf(there + used, sizeof there - used, "%s%lld", i == 0 ? "" : ", ", (long long)steps[i]);
    free(steps);
    return error_set(STATUS_USAGE, "%s: holds no checkpoint of step %lld; there are: %s", dir,
                     (long long)e->arguments->checkpoint, there);
}

static bool holds_checkpoints(const char *dir) {
    int64_t *steps = NULL;
    size_t count = 0;
    const bool some = checkpoint_steps(dir, &steps, &count) == STATUS_OK && count > 0;
    free(steps);
    return some;
}

// A run that goes on may take a checkpoint away between finding and reading it; then there is a newer one.
static Status take_newest(Export *e, const char *dir) {
    for (int i = 1;; i++) {
        char *newest = NULL;
        TRY(checkpoint_newest(dir, &newest));
        if (newest != NULL) {
            Status status = take_checkpoint(e, newest);
            const bool gone = status != STATUS_OK && !file_exists(newest);
            free(newest);
            if (!gone || i == NEWEST_TRIES) return status;
            error_clear();
        } else if (i == NEWEST_TRIES || !holds_checkpoints(dir)) {
            return error_set(STATUS_USAGE, "%s: the run has no adapter and no checkpoint yet%s; train first",
                             e->run_dir, holds_checkpoints(dir) ? " that is whole" : "");
        }
    }
}

static Status check_adapter_config(const Export *e, const char *folder) {
    PeftConfig found;
    TRY(peft_read_config(folder, arch_modules, &found));
    if (found.r == e->config.lora.r && found.alpha == e->config.lora.alpha &&
        strcmp(found.target_modules, e->config.lora.target_modules) == 0)
        return STATUS_OK;
    return error_set(STATUS_DATA, "%s: has another rank, alpha or other layers than %s/config.cfg says", folder,
                     e->run_dir);
}

// The adapter folder knows neither its model's hash nor its step; the newest checkpoint does.
static Status compare_newest(Export *e, const char *dir) {
    char *newest = NULL;
    TRY(checkpoint_newest(dir, &newest));
    if (newest == NULL) return STATUS_OK;
    Checkpoint c;
    Status status = checkpoint_read(newest, &c);
    if (status == STATUS_OK) {
        status = check_checkpoint(e, newest, &c);
        if (status == STATUS_OK && memcmp(c.adapter, e->adapter, (size_t)c.count * sizeof *c.adapter) == 0)
            e->step = c.step;
        else if (status == STATUS_OK)
            log_warning("%s is not that of the newest checkpoint: the run went on after it was written; --checkpoint "
                        "%lld takes the newer one",
                        e->from, (long long)c.step);
        checkpoint_free(&c);
    } else if (!file_exists(newest)) { // of a run that was taken up again
        error_clear();
        status = STATUS_OK;
    }
    free(newest);
    return status;
}

static Status take_final(Export *e, const char *folder, const char *checkpoints) {
    TRY(check_adapter_config(e, folder));
    TRY(peft_read_tensors(folder, e->table.tensors, e->table.tensor_count, e->adapter));
    snprintf(e->from, sizeof e->from, "%s", folder);
    e->step = -1;
    return compare_newest(e, checkpoints);
}

static Status take_adapter(Export *e) {
    char adapter[PATH_MAX], complete[PATH_MAX], checkpoints[PATH_MAX];
    TRY(join(adapter, e->run_dir, "adapter"));
    TRY(join(complete, e->run_dir, "adapter/adapter_config.json")); // written last
    TRY(join(checkpoints, e->run_dir, "checkpoints"));
    if (e->arguments->checkpoint > 0)
        TRY(take_step(e, checkpoints));
    else if (file_exists(complete))
        TRY(take_final(e, adapter, checkpoints));
    else
        TRY(take_newest(e, checkpoints));
    if (e->step >= 0)
        log_info("%-8s %s, step %lld%s", "adapter", e->from, (long long)e->step,
                 e->arguments->checkpoint == 0 && !file_exists(complete)
                     ? ": the newest checkpoint, as the run has not finished"
                     : "");
    else
        log_info("%-8s %s", "adapter", e->from);
    return STATUS_OK;
}

// --- the folder -----------------------------------------------------------------------------------------------------

// OWNER/NAME where the folder is one of the Hub's cache: .../models--OWNER--NAME/snapshots/COMMIT.
static bool name_in_cache(const char *folder, char name[PATH_MAX]) {
    char real[PATH_MAX];
    if (realpath(folder, real) == NULL) return false;
    const char *start = strstr(real, "/models--");
    if (start == NULL || strstr(start, "/snapshots/") == NULL) return false;
    memmove(name, start + strlen("/models--"), strlen(start + strlen("/models--")) + 1);
    name[strcspn(name, "/")] = '\0';
    char *between = strstr(name, "--");
    if (between == NULL) return false;
    *between = '/';
    memmove(between + 1, between + 2, strlen(between + 2) + 1);
    return model_card_hub_name(name);
}

static Status write_peft(const Export *e, const char *dir, const char *base) {
    PeftConfig peft = {.r = (int32_t)e->config.lora.r,
                       .alpha = e->config.lora.alpha,
                       .dropout = e->config.lora.dropout,
                       .base_model = base};
    strcpy(peft.target_modules, e->config.lora.target_modules);
    return peft_write(dir, &peft, e->table.tensors, e->table.tensor_count, e->adapter);
}

// What belongs to a model beside its weights and config.json: generation settings, the tokenizer, the license.
static Status copy_rest(const char *model_dir, const char *dir) {
    static const char *const names[] = {
        "generation_config.json",
        "tokenizer.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "vocab.json",
        "merges.txt",
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
        "NOTICE",
        "NOTICE.txt",
        "USE_POLICY.md",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char from[PATH_MAX], to[PATH_MAX];
        TRY(join(from, model_dir, names[i]));
        TRY(join(to, dir, names[i]));
        if (file_exists(from)) TRY(file_copy(from, to, COPIED_BYTES_MAX));
    }
    return STATUS_OK;
}

static Status write_merged(const Export *e, const char *dir, MergeResult *result) {
    const MergeOptions options = {.config = &e->model,
                                  .table = &e->table,
                                  .adapter = e->adapter,
                                  .r = (int32_t)e->config.lora.r,
                                  .alpha = e->config.lora.alpha,
                                  .dtype = e->arguments->dtype == 0 ? MERGE_KEEP_DTYPE
                                                                    : TENSOR_F32 + e->arguments->dtype - 1,
                                  .shard_bytes = (size_t)e->arguments->shard_bytes};
    TRY(merge_write(e->base, &options, dir, result));
    char path[PATH_MAX];
    TRY(join(path, dir, "config.json"));
    TRY(model_config_copy(e->config.model.path, merge_dtype_name(result->dtype), path));
    return copy_rest(e->config.model.path, dir);
}

static Status write_card(const Export *e, const char *dir, const char *base, bool on_hub, const char *dtype) {
    char path[PATH_MAX];
    const ModelCard card = {.merged = e->arguments->format == FORMAT_MERGED,
                            .folder = e->arguments->out,
                            .run_dir = e->run_dir,
                            .base = base,
                            .base_on_hub = on_hub,
                            .base_dir = e->config.model.path,
                            .dtype = dtype,
                            .config = &e->config,
                            .step = e->step,
                            .adapter_hash = hash_bytes(0, e->adapter, (size_t)e->table.count * sizeof *e->adapter),
                            .base_has_template = chat_template_is_there(e->config.model.path)};
    TRY(join(path, dir, "README.md"));
    return model_card_write(path, &card);
}

static Status fill_folder(const Export *e, const char *dir) {
    char cached[PATH_MAX];
    const char *base = e->arguments->base_name != NULL               ? e->arguments->base_name
                       : name_in_cache(e->config.model.path, cached) ? cached
                                                                     : e->config.model.path;
    const bool on_hub = base != e->config.model.path && model_card_hub_name(base);
    MergeResult result = {.elements = e->table.count, .bytes = 4 * e->table.count, .files = 1};
    if (e->arguments->format == FORMAT_PEFT)
        TRY(write_peft(e, dir, base));
    else
        TRY(write_merged(e, dir, &result));
    TRY(write_card(e, dir, base, on_hub, merge_dtype_name(result.dtype)));
    log_info("%-8s %s: %.2f M parameters in %s, %.1f MB in %d file%s", formats[e->arguments->format], e->arguments->out,
             (double)result.elements / 1e6, merge_dtype_name(result.dtype), (double)result.bytes / 1e6, result.files,
             result.files == 1 ? "" : "s");
    return STATUS_OK;
}

static Status write_folder(const Export *e) {
    char temporary[PATH_MAX];
    TRY(folder_begin(e->arguments->out, temporary));
    Status status = fill_folder(e, temporary);
    if (status == STATUS_OK) return folder_publish(temporary, e->arguments->out);
    folder_discard(temporary);
    return status;
}

// --- the command ----------------------------------------------------------------------------------------------------

static Status check_arguments(const Arguments *a) {
    if (a->format == FORMAT_MERGED) return STATUS_OK;
    if (a->dtype != 0)
        return error_set(STATUS_USAGE, "--dtype goes with --format merged; an adapter is written in float32");
    if (a->shard_bytes != SHARD_BYTES)
        return error_set(STATUS_USAGE, "--shard-bytes goes with --format merged; an adapter is one file");
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    Arguments arguments = {.shard_bytes = SHARD_BYTES};
    TRY(command_parse(&command_export, &argc, argv, &arguments));
    TRY(check_arguments(&arguments));
    stop_install(); // so that nothing half-written stays
    Export e = {.arguments = &arguments, .run_dir = argv[0]};
    Status status = open_base(&e);
    if (status == STATUS_OK) status = take_adapter(&e);
    if (status == STATUS_OK) status = write_folder(&e);
    tensor_files_close(e.base);
    adapter_table_free(&e.table);
    free(e.adapter);
    return status;
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {{.name = "--format",
                              .value = "peft|merged",
                              .kind = FLAG_WORD,
                              .required = true,
                              .offset = AT(format),
                              .words = formats,
                              .help = "an adapter for PEFT, or a whole model with the adapter in its weights"},
                             {.name = "--out",
                              .value = "DIR",
                              .kind = FLAG_FOLDER,
                              .required = true,
                              .offset = AT(out),
                              .help = "the folder to make; it must not be there, or be empty"},
                             {.name = "--checkpoint",
                              .value = "STEP",
                              .kind = FLAG_WHOLE,
                              .offset = AT(checkpoint),
                              .low = 1,
                              .high = SHARD_BYTES_MAX,
                              .help = "the checkpoint of this step (the final adapter, or the newest one)"},
                             {.name = "--model",
                              .value = "DIR",
                              .kind = FLAG_FOLDER,
                              .offset = AT(model),
                              .help = "the base model's folder, where it has moved (model.path)"},
                             {.name = "--base-name",
                              .value = "OWNER/NAME",
                              .kind = FLAG_TEXT,
                              .offset = AT(base_name),
                              .help = "the base model's name on the Hub, for adapter_config.json and the card"},
                             {.name = "--dtype",
                              .value = "WORD",
                              .kind = FLAG_WORD,
                              .offset = AT(dtype),
                              .words = dtypes,
                              .help = "of a merged model: float32, float16 or bfloat16 (base: as it is stored)"},
                             {.name = "--shard-bytes",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(shard_bytes),
                              .low = 1,
                              .high = SHARD_BYTES_MAX,
                              .help = "most bytes of a file of weights (5000000000)"},
                             {0}};

const Command command_export = {
    .name = "export",
    .operands = "RUN_DIR",
    .operands_min = 1,
    .operands_max = 1,
    .alone = true,
    .summary = "write what a run has learnt as a folder for PEFT, or merged into its model",
    .text =
        "Takes the final adapter, or the newest checkpoint of a run that has not finished. The folder appears when\n"
        "it is complete, with a README.md that is its model card.",
    .examples =
        "kto export runs/first --format peft --out first-adapter --base-name TinyLlama/TinyLlama-1.1B-Chat-v1.0\n"
        "kto export runs/first --format merged --out first-model\n"
        "kto export runs/first --format merged --out first-100 --checkpoint 100 --dtype float32",
    .flags = flags,
    .run = run_command,
};
