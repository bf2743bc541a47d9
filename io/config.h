// The configuration: one struct, filled from a libconfig file and key=value words through one option table (config.c),
// which also gives the help text, the ranges and the nearest key of an unknown one.
#pragma once
#include "src/base/names.h"
#include "src/base/status.h"
#include <stdint.h>
#include <stdio.h>

#define CONFIG_TEXT_MAX 1024 // of a string value

// The values of keys that take one of several words, in the order of the option table.
typedef enum ModelDtype { MODEL_FLOAT32 = 0, MODEL_BFLOAT16 = 1 } ModelDtype;
typedef enum RowOrder { ORDER_SHUFFLE = 0, ORDER_SEQUENTIAL = 1 } RowOrder;
typedef enum Recompute { RECOMPUTE_NONE = 0, RECOMPUTE_LAYER = 1 } Recompute;
typedef enum Optimizer { OPTIM_ADAMW = 0, OPTIM_PAGED_ADAMW_32BIT = 1 } Optimizer;
typedef enum BackendChoice { BACKEND_AUTO = 0, BACKEND_CPU = 1, BACKEND_CUDA = 2 } BackendChoice;
typedef enum CommChoice { COMM_AUTO = 0, COMM_NCCL = 1, COMM_MPI = 2 } CommChoice;
typedef enum LossType { LOSS_KTO = 0, LOSS_APO_ZERO_UNPAIRED = 1, LOSS_DPO = 2, LOSS_TYPES } LossType;
typedef enum Scheduler { SCHEDULER_COSINE = 0, SCHEDULER_LINEAR = 1, SCHEDULER_CONSTANT = 2 } Scheduler;

typedef struct Config {
    struct {
        char path[CONFIG_TEXT_MAX];
        int dtype; // ModelDtype
    } model;
    struct {
        char train[CONFIG_TEXT_MAX], eval[CONFIG_TEXT_MAX];
        int64_t max_length, max_prompt_length; // tokens; max_prompt_length 0: no limit
        int order;                             // RowOrder
        char chat_template[CONFIG_TEXT_MAX];   // "auto", "zephyr", "chatml", "llama-2" or a file
        int64_t today;                         // year, month and day as one number; 0: the day of the start
        bool skip_bad_rows;
        char reference_cache[CONFIG_TEXT_MAX]; // a folder; "": the run directory
        bool share_prefixes;
    } data;
    struct {
        int64_t r;
        double alpha, dropout;
        char target_modules[CONFIG_TEXT_MAX]; // a choice of names (src/base/names.h)
        char init[CONFIG_TEXT_MAX];
    } lora;
    struct {
        int loss_type; // LossType
        double beta;
        double desirable_weight, undesirable_weight; // NaN: "auto"
    } kto;
    struct {
        char output_dir[CONFIG_TEXT_MAX];
        int64_t seed, global_batch_size, micro_batch_tokens;
        int recompute; // Recompute
        double num_train_epochs;
        int64_t max_steps; // -1: from num_train_epochs
        double learning_rate;
        int lr_scheduler_type; // Scheduler
        int64_t warmup_steps;
        int optim; // Optimizer
        double weight_decay, adam_beta1, adam_beta2, adam_epsilon, max_grad_norm;
        int64_t logging_steps, eval_steps, save_steps, save_total_limit;
        char sample_prompts[CONFIG_TEXT_MAX];
        int64_t sample_steps, max_skipped_steps;
    } train;
    struct {
        bool swmr;
    } log;
    struct {
        int backend; // BackendChoice
        int comm;    // CommChoice
        double timeout_seconds;
    } device;
} Config;

// Defaults, then the file, then the key=value words. `modules` are the names that lora.target_modules may have
// (arch_modules of src/model/arch.h). Errors (STATUS_USAGE) name FILE:LINE or the word, what is wrong,
// and the nearest key of an unknown one. Also refuses combinations that cannot work (max_prompt_length >= max_length,
// two "auto" weights, a missing model.path, data.train or train.output_dir). Relative paths in the file are taken
// relative to the current directory, as written.
Status config_load(Config *out, const char *const *modules, const char *file, int override_count,
                   char *const *overrides);

// The same from text, e.g. the config attribute of a checkpoint; `name` stands for the file in messages.
Status config_parse(Config *out, const char *const *modules, const char *text, const char *name, int override_count,
                    char *const *overrides);

// Every key with its value, as a libconfig file that config_parse reads back to the same struct. Caller frees.
// Returns NULL when out of memory. (Not config_write: libconfig exports a function of that name.)
char *config_text(const Config *config);

// The word that a key out of several words has: config_word(config, "kto.loss_type") is "dpo". "" for any
// other key.
const char *config_word(const Config *config, const char *key);

// Whether the loss learns from pairs {"prompt", "chosen", "rejected"}, each of which is one row to it. The rest of what
// a loss is stands in src/train/kto.h.
bool loss_takes_pairs(LossType loss);

// Option `index` (0, 1, ...) as "key = value", for ranks to compare; "" for one that names a file, which machines may
// keep in other places. False after the last.
bool config_assignment(const Config *config, int index, char *out, size_t size);

// The first key whose value differs and that changes a run's result ("" if none): key gets its name, a and b the
// values' texts. Harmless keys: logging, saving, evaluation steps, sampling, what it runs on (backend, comm, recompute,
// time limits), output_dir, reference_cache, and max_steps and num_train_epochs under a constant schedule.
bool config_same_run(const Config *saved, const Config *now, char key[64], char a[256], char b[256]);

// One row of the option table, for help, manual and completion.
typedef struct ConfigKey {
    const char *name;                 // "train.learning_rate"
    int group;                        // bytes of the name before the dot
    char takes[128];                  // "a number", "\"kto\" or \"dpo\"", ...
    char range[96];                   // "> 0"; "": any
    char preset[128];                 // the default as a file has it, "[\"q_proj\", \"v_proj\"]"; "": none
    const char *help;                 // one line
    bool needed;                      // has no default
    bool path;                        // of a file or folder
    bool list;                        // of the words below, separated by commas on the command line
    bool alters;                      // another value gives another result: a run is not resumed across a change
    const char *words[NAMES_MAX + 2]; // the words that the value may be; NULL ends them
} ConfigKey;

// Row `index` of the table, which is sorted by groups; false: it has no such row. `modules` as above.
bool config_key(int index, const char *const *modules, ConfigKey *out);

// The option table as help text by groups: name, help, type, range, default; lines of at most `width` columns.
// `group`: this one alone; NULL: all. False: there is no such group.
bool config_help(FILE *to, const char *group, int width);
