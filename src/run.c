// Opening what a command needs, and the summary that a person reads first.
#include "src/run.h"

#include "io/checkpoint.h"
#include "io/files.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/module.h"

#include <limits.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MICRO_BATCH_TOKENS_MAX (1 << 22)
// Scratch of the CUDA device where its module is not there to ask: logits, cuBLASLt's workspace, LoRA and attention.
#define ASSUMED_SCRATCH ((size_t)256 << 20)

// Weights up to here: a thread alone computes one sequence's token almost as fast as all threads together, and threads
// apart compute more of many (docs/speed.md has the figures).
#define APART_BYTES ((size_t)8 << 20)

static int cores_allowed(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// Unless the user says (OMP_NUM_THREADS) or mpirun binds ranks apart, ranks of a node divide its cores.
static int choose_threads(const Comm *comm) {
    if (getenv("OMP_NUM_THREADS") != NULL) return 0;
    int allowed = cores_allowed(), online = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (allowed < online) return allowed;
    return allowed / comm->node_size > 1 ? allowed / comm->node_size : 1;
}

static ModelOptions model_options(const Run *run) {
    const Config *config = &run->config;
    ModelOptions options = {.device = {.dtype = config->model.dtype == 1 ? DTYPE_BF16 : DTYPE_F32,
                                       .threads = choose_threads(run->comm),
                                       .index = run->comm->node_rank},
                            .lora_r = (int32_t)config->lora.r,
                            .lora_alpha = config->lora.alpha,
                            .lora_dropout = config->lora.dropout,
                            .recompute = config->train.recompute == 1,
                            .paged_moments = config->train.optim == 1,
                            .max_positions = 0};
    memcpy(options.lora_target, config->lora.target, sizeof options.lora_target);
    return options;
}

// --- the device -----------------------------------------------------------------------------------------------------

enum { BACKEND_AUTO, BACKEND_CPU, BACKEND_CUDA };
enum { COMM_AUTO, COMM_NCCL, COMM_MPI };

static bool is_gpu(const DeviceInfo *info) {
    return info->id[0] != '\0';
}

static Status open_backend(const char *name, ModelOptions *options) {
    const char *why = "";
    options->backend = backend_find(name, &why);
    if (options->backend == NULL) return error_set(STATUS_USAGE, "%s", why);
    return options->backend->open(&options->device, &options->opened);
}

// "auto" is a GPU where one opens. Where the module was built but gives none, that is said; a build without it is a CPU
// build, and says nothing.
static Status open_device(const Config *config, ModelOptions *options) {
    if (config->device.backend == BACKEND_CUDA) return open_backend("cuda", options);
    if (config->device.backend == BACKEND_AUTO && module_exists("cuda")) {
        if (open_backend("cuda", options) == STATUS_OK) return STATUS_OK;
        log_info("%-8s the CPU, because: %s", "device", error_text());
        error_clear();
    }
    return open_backend("cpu", options);
}

// Fails on all ranks alike when one has another `text` than rank 0, and says which.
static Status same_on_all_ranks(Comm *comm, const char *text, const char *advice) {
    const uint64_t hash = hash_bytes(0, text, strlen(text));
    const double mine[2] = {(double)(hash >> 32), (double)(hash & 0xffffffff)}; // exact
    double *all = NULL;
    int *counts = NULL;
    Status status = MEMORY_ALLOC(all, 2 * comm->size, "the ranks' devices");
    if (status == STATUS_OK) status = MEMORY_ALLOC(counts, comm->size, "the ranks' devices");
    for (int r = 0; r < comm->size && status == STATUS_OK; r++) counts[r] = 2;
    if (status == STATUS_OK) status = comm_gather(comm, mine, all, counts);
    int other = 0, others = 0;
    for (int r = comm->size - 1; r > 0 && status == STATUS_OK; r--)
        if (all[2 * r] != all[0] || all[2 * r + 1] != all[1]) {
            other = r;
            others++;
        }
    free(all);
    free(counts);
    TRY(status);
    if (others == 0) return STATUS_OK;
    char first[300] = "", second[300] = "";
    snprintf(first, sizeof first, "%s", text);
    snprintf(second, sizeof second, "%s", text);
    TRY(comm_broadcast(comm, first, sizeof first, 0));
    TRY(comm_broadcast(comm, second, sizeof second, other));
    return comm_agree(comm, error_set(STATUS_USAGE, "rank 0 has %s, but rank %d%s has %s; %s", first, other,
                                      others > 1 ? " (not alone)" : "", second, advice));
}

// Counts the ranks of this node that have this rank's device; *other is the lowest that is not this rank.
static Status count_device_ranks(Run *run, const DeviceInfo *info, int *other) {
    Comm *comm = run->comm;
    const int64_t mine[2] = {(int64_t)hash_bytes(0, info->id, strlen(info->id)), comm->rank};
    int64_t *all = NULL;
    TRY(MEMORY_ALLOC(all, 2 * comm->node_size, "the ranks' devices"));
    Status status = comm_node_gather(comm, mine, 2, all);
    run->device_ranks = 0;
    *other = comm->rank;
    for (int i = 0; i < comm->node_size && status == STATUS_OK; i++) {
        if (all[2 * i] != mine[0]) continue;
        run->device_ranks++;
        if (*other == comm->rank) *other = (int)all[2 * i + 1];
    }
    free(all);
    return status;
}

// How gradients are summed, the same on all ranks: by NCCL on the GPUs, which takes one GPU a rank, or over MPI.
static Status choose_device_sum(Run *run, const DeviceInfo *info, int other) {
    Comm *comm = run->comm;
    const int asked = run->config.device.comm;
    run->device_sum = NULL;
    if (comm->size == 1 || asked == COMM_MPI || (asked == COMM_AUTO && !is_gpu(info))) return STATUS_OK;
    Status status = STATUS_OK;
    if (!is_gpu(info)) {
        status =
            error_set(STATUS_USAGE, "device.comm = \"nccl\" sums on GPUs, and this run is on the CPU; use \"auto\"");
    } else if (run->device_ranks > 1) {
        char host[256] = "this machine";
        gethostname(host, sizeof host - 1);
        status =
            error_set(STATUS_USAGE,
                      "ranks %d and %d on %s share one GPU (%s), which NCCL does not allow: give the job more GPUs "
                      "(--gpus), start fewer ranks, or set device.comm = \"mpi\"",
                      comm->rank < other ? comm->rank : other, comm->rank < other ? other : comm->rank, host, info->id);
    } else if (device_comm_find(&run->device_sum) != STATUS_OK) {
        char why[ERROR_TEXT_MAX];
        snprintf(why, sizeof why, "%s", error_text());
        error_clear();
        status =
            error_set(STATUS_USAGE, "NCCL: %.600s; build with NCCL (libnccl-dev), or set device.comm = \"mpi\"", why);
    }
    status = comm_agree(comm, status);
    if (status != STATUS_USAGE || asked != COMM_AUTO) return status;
    log_info("%-8s gradients are summed over MPI, through the host, because: %s", "device", error_text());
    error_clear();
    comm->agreed_failure = false;
    run->device_sum = NULL;
    return STATUS_OK;
}

static Status check_devices(Run *run, const ModelOptions *options, bool sums) {
    DeviceInfo info;
    options->backend->info(options->opened, &info);
    char text[300]; // CPUs may differ: ranks are bound to cores, and their threads are part of the name
    snprintf(text, sizeof text, "%s in %s", is_gpu(&info) ? info.name : "the CPU",
             options->device.dtype == DTYPE_BF16 ? "bfloat16" : "float32");
    TRY(same_on_all_ranks(run->comm, text, "start all ranks on machines of one kind, or set device.backend = \"cpu\""));
    int other = 0;
    TRY(comm_agree(run->comm, count_device_ranks(run, &info, &other)));
    return sums ? choose_device_sum(run, &info, other) : STATUS_OK;
}

static Status open_model(Run *run, bool sums) {
    ModelConfig config;
    TRY(comm_agree(run->comm, model_config_read(&config, run->config.model.path)));
    const int64_t longest =
        run->train.counts.longest > run->eval.counts.longest ? run->train.counts.longest : run->eval.counts.longest;
    if (longest > config.max_position)
        return comm_agree(run->comm,
                          error_set(STATUS_USAGE,
                                    "a row of %lld tokens is longer than the model's max_position_embeddings %d; set "
                                    "data.max_length = %d",
                                    (long long)longest, config.max_position, config.max_position));
    ModelOptions options = model_options(run);
    options.max_positions = config.max_position;
    run->copies = 1;
    if (run->apart && model_weight_bytes(&config, options.device.dtype) <= APART_BYTES) {
        run->copies = options.device.threads > 0 ? options.device.threads : omp_get_max_threads();
        options.device.threads = 1;
    }
    Status status = comm_agree(run->comm, open_device(&run->config, &options));
    if (status == STATUS_OK) status = check_devices(run, &options, sums);
    if (status != STATUS_OK) {
        if (options.opened != NULL) options.backend->close(options.opened);
        return status;
    }
    run->has_model = true;
    DeviceInfo info;
    options.backend->info(options.opened, &info);
    if (is_gpu(&info)) run->copies = 1;
    TRY(comm_agree(run->comm, model_open(&run->model, run->config.model.path, &options, run->comm)));
    char text[64];
    snprintf(text, sizeof text, "base weights of hash %016llx", (unsigned long long)run->model.hash);
    return same_on_all_ranks(run->comm, text, "give all machines the same model.path");
}

Status run_copy_model(Run *run, Model *out) {
    ModelOptions options = run->model.options;
    options.opened = NULL;
    float *adapter = NULL;
    TRY(model_open(out, run->config.model.path, &options, run->comm));
    TRY(MEMORY_ALLOC(adapter, out->adapter_count, "the adapter"));
    Status status = model_get(&run->model, run->model.adapter, adapter);
    if (status == STATUS_OK) status = model_set(out, out->adapter, adapter);
    if (status == STATUS_OK) status = model_adapter_changed(out);
    free(adapter);
    return status;
}

// --- rows and steps -------------------------------------------------------------------------------------------------

static Status open_rows(Run *run, int32_t vocab) {
    const Config *config = &run->config;
    DatasetOptions options = {.max_length = config->data.max_length,
                              .max_prompt_length = config->data.max_prompt_length,
                              .shuffle = config->data.order == 0,
                              .skip_bad_rows = config->data.skip_bad_rows,
                              .need_kl = config->kto.loss_type == LOSS_KTO,
                              .pairs = config->kto.loss_type == LOSS_DPO,
                              .need_owners = config->lora.dropout > 0,
                              .seed = (uint64_t)config->train.seed,
                              .batch_size = (int32_t)config->train.global_batch_size,
                              .chat = run->chat,
                              .vocab = vocab};
    TRY(dataset_open(&run->train, config->data.train, run->tokenizer, &options, run->comm));
    if (config->data.eval[0] == '\0') return STATUS_OK;
    options.shuffle = options.need_owners = false;
    return dataset_open(&run->eval, config->data.eval, run->tokenizer, &options, run->comm);
}

// Bytes that this rank may take for activations and scratch: from total memory and the configuration alone, so that a
// resumed run finds the same. The ranks of a machine share the CPU's memory and one copy of the weights in it; on a GPU
// each rank has its own copy.
static double working_room(const Run *run) {
    const Model *model = &run->model;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    const double usable = (double)info.total_memory * RUN_MEMORY_SHARE, weights = (double)model->memory.weights;
    const double mine =
        is_gpu(&info) ? usable / run->device_ranks - weights : (usable - weights) / run->comm->node_size;
    return mine - (double)model->memory.adapters;
}

double run_working_bytes(const ModelConfig *model, const ModelOptions *options, int64_t keep, int64_t all) {
    const size_t scratch = options->backend != NULL ? model_scratch_bytes(model, options, all) : ASSUMED_SCRATCH;
    return (double)(model_activation_bytes(model, options, keep, all) + scratch);
}

int64_t run_largest_micro_batch(const ModelConfig *model, const ModelOptions *options, double room) {
    int64_t low = 0, high = MICRO_BATCH_TOKENS_MAX;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (run_working_bytes(model, options, middle, middle) <= room)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// The largest budget that fits on every rank.
static Status choose_micro_batch_tokens(Run *run) {
    const Model *model = &run->model;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    double mine = (double)run_largest_micro_batch(&model->config, &model->options, working_room(run)), *all = NULL;
    int *counts = NULL;
    TRY(MEMORY_ALLOC(all, run->comm->size, "budgets"));
    TRY(MEMORY_ALLOC(counts, run->comm->size, "budgets"));
    for (int r = 0; r < run->comm->size; r++) counts[r] = 1;
    Status status = comm_gather(run->comm, &mine, all, counts);
    for (int r = 0; r < run->comm->size; r++)
        if (all[r] < mine) mine = all[r];
    free(all);
    free(counts);
    TRY(status);
    if (mine < 1)
        return error_set(STATUS_USAGE, "the model and its adapters do not fit this device's memory of %.1f GiB",
                         (double)info.total_memory / 0x1p30);
    run->step.micro_batch_tokens = (int64_t)mine;
    return STATUS_OK;
}

Status run_measure_layout(const Run *run, const Dataset *dataset, int first_rank, int end_rank, LayoutSize *size) {
    BatchRow *rows = NULL;
    BatchPlan plan = {0};
    TRY(MEMORY_ALLOC(rows, dataset->batch_size, "a batch"));
    BatchOptions options = {.ranks = run->comm->size,
                            .micro_batch_tokens = run->step.micro_batch_tokens,
                            .share = run->step.share_prefixes};
    Status status = STATUS_OK;
    for (int32_t batch = 0; batch < dataset->batch_count && status == STATUS_OK; batch++) {
        dataset_batch(dataset, batch, rows);
        for (options.rank = first_rank; options.rank < end_rank && status == STATUS_OK; options.rank++) {
            status = batch_plan(rows, dataset_batch_rows(dataset, batch), &options, &plan);
            for (int32_t i = 0; i < plan.micro_count && status == STATUS_OK; i++) {
                const int32_t *slot = plan.slot + plan.micro_first[i];
                const TokenCount tokens =
                    batch_count(rows, slot, plan.micro_first[i + 1] - plan.micro_first[i], ROLES_ALL, options.share);
                const int64_t keep = tokens.prefix + tokens.policy, all = keep + tokens.kl;
                size->keep = keep > size->keep ? keep : size->keep;
                size->all = all > size->all ? all : size->all;
                size->total.prefix += tokens.prefix;
                size->total.policy += tokens.policy;
                size->total.kl += tokens.kl;
            }
        }
    }
    batch_plan_free(&plan);
    free(rows);
    return status;
}

// Room for the largest micro-batches, so that no step allocates.
static Status reserve_activations(Run *run) {
    const int rank = run->comm->rank;
    LayoutSize train = {0}, eval = {0};
    TRY(run_measure_layout(run, &run->train, rank, rank + 1, &train));
    if (run->eval.count > 0) TRY(run_measure_layout(run, &run->eval, rank, rank + 1, &eval));
    const int64_t all = train.all > eval.all ? train.all : eval.all;
    const Model *model = &run->model;
    const double needed = run_working_bytes(&model->config, &model->options, train.keep, all), room = working_room(run);
    if (needed > room)
        return error_set(
            STATUS_USAGE,
            "train.micro_batch_tokens = %lld: the largest micro-batch has %lld tokens and needs %.0f MiB, and "
            "rank %d has room for %.0f beside weights and adapters; set at most %lld, and let no row be longer "
            "(data.max_length); train.recompute = \"layer\" needs less",
            (long long)run->step.micro_batch_tokens, (long long)all, needed / 0x1p20, rank,
            room > 0 ? room / 0x1p20 : 0, (long long)run_largest_micro_batch(&model->config, &model->options, room));
    return model_reserve(&run->model, train.keep, all);
}

static Status open_step(Run *run) {
    Config *config = &run->config;
    const DatasetCounts *counts = &run->train.counts;
    KtoOptions kto = {.loss = (LossType)config->kto.loss_type,
                      .beta = config->kto.beta,
                      .desirable_weight = config->kto.desirable_weight,
                      .undesirable_weight = config->kto.undesirable_weight};
    if (isnan(kto.desirable_weight))
        kto.desirable_weight = kto_auto_weight(counts->desirable, counts->undesirable, kto.undesirable_weight);
    else if (isnan(kto.undesirable_weight))
        kto.undesirable_weight = kto_auto_weight(counts->undesirable, counts->desirable, kto.desirable_weight);
    run->step.comm = run->comm;
    run->step.model = &run->model;
    run->step.kto = kto;
    run->step.share_prefixes = config->data.share_prefixes;
    run->step.seed = (uint64_t)config->train.seed;
    run->step.micro_batch_tokens = config->train.micro_batch_tokens;
    run->has_step = true;
    if (run->device_sum != NULL) {
        const Model *model = &run->model;
        DeviceInfo info;
        model->options.backend->info(model->device, &info);
        DeviceComm *joined;
        TRY(device_comm_open(run->comm, run->device_sum, info.index, model->options.backend->stream(model->device),
                             &joined));
        run->step.device_comm = joined;
    }
    TRY(step_open(&run->step, (int32_t)config->train.global_batch_size));
    if (run->step.micro_batch_tokens == 0) TRY(choose_micro_batch_tokens(run));
    return reserve_activations(run);
}

// Noon of a day that is written as one number.
static Status noon_of(int64_t day, time_t *out) {
    struct tm noon = {.tm_year = (int)(day / 10000) - 1900,
                      .tm_mon = (int)(day / 100 % 100) - 1,
                      .tm_mday = (int)(day % 100),
                      .tm_hour = 12,
                      .tm_isdst = -1};
    const struct tm asked = noon;
    *out = mktime(&noon);
    if (noon.tm_mday == asked.tm_mday && noon.tm_mon == asked.tm_mon && *out != (time_t)-1) return STATUS_OK;
    return error_set(STATUS_USAGE, "data.today is %lld, which is no day; write one as 20261231", (long long)day);
}

static int64_t day_of(time_t now) {
    struct tm day;
    if (localtime_r(&now, &day) == NULL) return 0;
    return (day.tm_year + 1900) * INT64_C(10000) + (day.tm_mon + 1) * 100 + day.tm_mday;
}

static Status first_day(const Run *run, int64_t *day) {
    char path[PATH_MAX];
    ChatTemplate *chat;
    TRY(chat_template_open(&chat, run->config.model.path, run->config.data.chat_template, "", "", 0));
    const bool tells_time = chat_template_tells_time(chat);
    chat_template_close(chat);
    if (!tells_time) return STATUS_OK;
    if ((size_t)snprintf(path, sizeof path, "%s/config.cfg", run->config.train.output_dir) < sizeof path &&
        file_exists(path)) {
        Config saved;
        TRY(config_load(&saved, path, 0, NULL));
        *day = saved.data.today;
    }
    if (*day == 0) *day = day_of(time(NULL));
    return STATUS_OK;
}

Status run_fix_today(Run *run) {
    int64_t day = run->config.data.today;
    TRY(comm_agree(run->comm, run->comm->rank == 0 && day == 0 ? first_day(run, &day) : STATUS_OK));
    TRY(comm_broadcast(run->comm, &day, sizeof day, 0));
    run->config.data.today = day;
    return STATUS_OK;
}

static Status open_tokenizer(Run *run, time_t now, int32_t *vocab) {
    const char *dir = run->config.model.path;
    if (run->config.data.today > 0) TRY(noon_of(run->config.data.today, &now));
    ModelConfig config;
    TRY(model_config_read(&config, dir));
    TRY(tokenizer_open(&run->tokenizer, dir));
    *vocab = config.vocab;
    if (tokenizer_vocab(run->tokenizer) > config.vocab)
        return error_set(STATUS_DATA,
                         "%s: the tokenizer has %d tokens but the embedding only %d; tokenizer and model do not "
                         "belong together",
                         dir, tokenizer_vocab(run->tokenizer), config.vocab);
    return chat_template_open(&run->chat, dir, run->config.data.chat_template, tokenizer_bos_text(run->tokenizer),
                              tokenizer_eos_text(run->tokenizer), now);
}

Status run_open(Run *run, unsigned parts) {
    int32_t vocab = 0;
    time_t now = time(NULL); // of one rank: chat templates may tell it
    TRY(comm_broadcast(run->comm, &now, sizeof now, 0));
    TRY(comm_agree(run->comm, open_tokenizer(run, now, &vocab)));
    if (parts & RUN_ROWS) TRY(open_rows(run, vocab));
    if (parts & RUN_MODEL) TRY(open_model(run, parts & RUN_STEP));
    if (parts & RUN_STEP) TRY(comm_agree(run->comm, open_step(run)));
    return STATUS_OK;
}

void run_close(Run *run) {
    reference_close(&run->train_reference);
    reference_close(&run->eval_reference);
    if (run->has_step) step_close(&run->step);
    if (run->has_model) model_close(&run->model);
    dataset_close(&run->train);
    dataset_close(&run->eval);
    chat_template_close(run->chat);
    tokenizer_close(run->tokenizer);
}

int64_t run_total_steps(const Run *run) {
    if (run->config.train.max_steps > 0) return run->config.train.max_steps;
    return (int64_t)ceil(run->config.train.num_train_epochs * run->train.batch_count);
}

// --- adapters -------------------------------------------------------------------------------------------------------

Status run_peft_tensors(const Model *model, float *host, PeftTensor **out) {
    PeftTensor *tensors = NULL;
    TRY(MEMORY_ALLOC(tensors, model->tensor_count, "an adapter"));
    for (int32_t i = 0; i < model->tensor_count; i++) {
        const AdapterTensor *from = &model->tensors[i];
        snprintf(tensors[i].name, sizeof tensors[i].name, "base_model.model.%s", from->name);
        tensors[i].rows = from->rows;
        tensors[i].cols = from->cols;
        tensors[i].data = host + from->offset;
    }
    *out = tensors;
    return STATUS_OK;
}

Status run_read_adapter(Run *run, const char *folder) {
    Model *model = &run->model;
    float *host = NULL;
    PeftTensor *tensors = NULL;
    Status status = MEMORY_ALLOC(host, model->adapter_count, "an adapter");
    if (status == STATUS_OK) status = run_peft_tensors(model, host, &tensors);
    if (status == STATUS_OK) status = peft_read_tensors(folder, tensors, model->tensor_count);
    if (status == STATUS_OK) status = model_set(model, model->adapter, host);
    if (status == STATUS_OK) status = model_adapter_changed(model);
    free(tensors);
    free(host);
    return status;
}

static Status check_init(const Config *config) {
    PeftConfig found;
    TRY(peft_read_config(config->lora.init, &found));
    if (found.r != config->lora.r)
        return error_set(STATUS_USAGE, "lora.init: %s has r = %d but lora.r = %lld; make them equal", config->lora.init,
                         found.r, (long long)config->lora.r);
    if (found.alpha != config->lora.alpha)
        return error_set(STATUS_USAGE, "lora.init: %s has lora_alpha = %g but lora.alpha = %g; make them equal",
                         config->lora.init, found.alpha, config->lora.alpha);
    for (int target = 0; target < CONFIG_TARGETS_MAX; target++)
        if (found.target[target] != config->lora.target[target])
            return error_set(STATUS_USAGE, "lora.init: %s %s %s but lora.target_modules %s; make them equal",
                             config->lora.init, found.target[target] ? "adapts" : "does not adapt",
                             config_target_names[target], found.target[target] ? "does not" : "does");
    return STATUS_OK;
}

Status run_first_adapter(Run *run) {
    if (run->config.lora.init[0] == '\0') return model_init_adapter(&run->model, (uint64_t)run->config.train.seed);
    Status status = check_init(&run->config);
    if (status == STATUS_OK) status = run_read_adapter(run, run->config.lora.init);
    return comm_agree(run->comm, status);
}

// --- the summary ----------------------------------------------------------------------------------------------------

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

static void describe_rows(const Dataset *dataset, const char *name) {
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

static void describe_sharing(const Run *run) {
    const Dataset *d = &run->train;
    BatchRow *rows = NULL;
    BatchPlan plan = {0};
    if (MEMORY_ALLOC(rows, d->batch_size, "a batch") != STATUS_OK) return;
    const BatchOptions options = {.ranks = run->comm->size,
                                  .share = run->config.data.share_prefixes,
                                  .micro_batch_tokens = run->step.micro_batch_tokens};
    double laid_out = 0, apart = 0;
    int64_t counted = 0;
    const int32_t stride = d->batch_count / SHARING_BATCHES + 1;
    for (int32_t b = 0; b < d->batch_count; b += stride, counted++) {
        dataset_batch(d, b, rows);
        const int32_t n = dataset_batch_rows(d, b);
        if (batch_plan(rows, n, &options, &plan) != STATUS_OK) break;
        TokenCount tokens = batch_computed(rows, &plan, &options);
        laid_out += (double)(tokens.prefix + tokens.policy + tokens.kl);
        for (int32_t i = 0; i < n; i++)
            for (int32_t c = 0; c < rows[i].completion_count; c++)
                apart += rows[i].prompt_length + rows[i].completion[c].length;
    }
    batch_plan_free(&plan);
    free(rows);
    if (counted > 0)
        log_info("%-8s %.0f tokens a step; one sequence a completion would be %.0f: sharing saves %.0f %%", "batches",
                 laid_out / (double)counted, apart / (double)counted, 100 * (1 - laid_out / apart));
}

void run_describe_rows(const Run *run) {
    describe_rows(&run->train, "train");
    if (run->eval.count > 0) describe_rows(&run->eval, "eval");
    describe_sharing(run);
    describe_labels(run);
}

void run_describe(const Run *run) {
    const Config *config = &run->config;
    const Model *model = &run->model;
    const ModelConfig *c = &model->config;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    const DType dtype = model->options.device.dtype;
    log_info("%-8s %s: Llama, %d layers, hidden %d, vocabulary %d, %.1f M parameters in %s", "model",
             config->model.path, c->layers, c->hidden, c->vocab,
             (double)model_weight_bytes(c, dtype) / (double)dtype_size(dtype) / 1e6,
             dtype == DTYPE_BF16 ? "bfloat16" : "float32");
    log_info("%-8s LoRA r %lld alpha %g: %.2f M parameters", "adapter", (long long)config->lora.r, config->lora.alpha,
             (double)model->adapter_count / 1e6);
    run_describe_rows(run);
    const char *plural = run->comm->size == 1 ? "" : "s";
    if (is_gpu(&info))
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
    if (!is_gpu(&info) && used < online && getenv("OMP_NUM_THREADS") == NULL)
        log_warning(
            "%d of this machine's %d cores are used: mpirun binds each rank to one core; start it with --bind-to none",
            used, online);
}

// --- a trained model -------------------------------------------------------------------------------------------------

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
    if (status == STATUS_OK && newest != NULL && checkpoint.count != model->adapter_count)
        status = error_set(STATUS_DATA, "%s: has %lld adapter weights, but the run's configuration makes %lld", newest,
                           (long long)checkpoint.count, (long long)model->adapter_count);
    if (status == STATUS_OK) snprintf(from, PATH_MAX, "%s", finished ? adapter : newest);
    if (status == STATUS_OK && finished) status = run_read_adapter(run, adapter);
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
    return config_load(&run->config, is_run ? path : source, 0, NULL);
}

Status run_open_tuned(Run *run, const char *source, bool adapters, char *from) {
    char path[PATH_MAX], unused[PATH_MAX];
    if (from == NULL) from = unused;
    from[0] = '\0';
    snprintf(path, sizeof path, "%s/config.cfg", source);
    const bool is_run = file_exists(path);
    TRY(comm_agree(run->comm, load_config(run, source, is_run, path)));
    if (!adapters) run->config.lora.r = 0; // the base model needs none
    TRY(run_open(run, RUN_MODEL));
    if (!adapters) return STATUS_OK;
    return comm_agree(run->comm, load_tuned(run, is_run ? source : run->config.train.output_dir, from));
}
