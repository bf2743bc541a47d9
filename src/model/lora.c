// Which modules an op takes together, and the calls of the ops.
#include "src/model/lora.h"

#include "src/base/memory.h"

static bool in_group(const ModelConfig *c, int group, int target) {
    if (group == GROUP_Q) return target == Q;
    if (group == GROUP_KV) return target == K || target == V;
    return (int)arch_tensor(c, (ArchRole)target)->group == group;
}

int lora_group_size(const ModelConfig *c, const ModelOptions *options, int group) {
    int n = 0;
    for (int target = 0; target < ARCH_MODULES; target++)
        n += options->lora_target[target] && in_group(c, group, target);
    return options->lora_r > 0 ? n : 0;
}

bool lora_has(const Model *model, int layer, int group) {
    return model->state->groups[layer][group].lora.count > 0;
}

// --- making them ----------------------------------------------------------------------------------------------------

// Elements from one row of a module's output to the next: gate's and up's stand side by side.
static int32_t output_stride(const ModelConfig *c, ArchRole role) {
    const int32_t width = (int32_t)arch_rows(c, role);
    return role == ARCH_GATE || role == ARCH_UP ? 2 * width : width;
}

// The groups of ops that an adapted module takes part in.
static void place_module(Model *model, const AdapterModule *module) {
    const ModelOptions *options = &model->options;
    const AdapterTensor *a = &model->table.tensors[module->a], *b = &model->table.tensors[module->b];
    const size_t t = dtype_size(options->device.dtype);
    for (int group = 0; group < GROUPS; group++) {
        if (!in_group(&model->config, group, (int)module->role)) continue;
        Group *g = &model->state->groups[module->layer][group];
        g->target[g->lora.count] = (int)module->role;
        g->lora.r = options->lora_r;
        g->lora.scale = (float)(options->lora_alpha / options->lora_r);
        g->lora.in = a->cols;
        g->lora.module[g->lora.count++] = (LoraModule){.a = at(model->state->work, a->offset, t),
                                                       .b = at(model->state->work, b->offset, t),
                                                       .da = model->gradient + a->offset,
                                                       .db = model->gradient + b->offset,
                                                       .out = b->rows,
                                                       .ld = output_stride(&model->config, module->role),
                                                       .id = module->layer * ARCH_MODULES + (int32_t)module->role};
    }
}

Status lora_make(Model *model) {
    const ModelConfig *c = &model->config;
    const ModelOptions *options = &model->options;
    const Backend *backend = options->backend;
    struct ModelState *state = model->state;
    const size_t t = dtype_size(options->device.dtype);
    TRY(adapter_table_make(c, options->lora_r, options->lora_target, &model->table));
    const size_t bytes = (size_t)model->table.count * sizeof(float);
    float **vectors[] = {&model->adapter, &model->gradient, &model->adam_m, &model->adam_v};
    for (int i = 0; i < 4; i++) {
        const bool paged = options->paged_moments && i >= 2;
        TRY((paged ? backend->alloc_paged : backend->alloc)(model->device, bytes, "adapters", (void **)vectors[i]));
    }
    state->work = model->adapter;
    if (options->device.dtype != DTYPE_F32)
        TRY(backend->alloc(model->device, (size_t)model->table.count * t, "adapters", &state->work));
    model->memory.adapters = 4 * bytes + (options->device.dtype != DTYPE_F32 ? (size_t)model->table.count * t : 0);
    TRY(memory_alloc((void **)&state->groups, (size_t)c->layers, sizeof *state->groups, "groups"));
    for (int32_t i = 0; i < model->table.module_count; i++) place_module(model, &model->table.modules[i]);
    return STATUS_OK;
}

// --- the ops --------------------------------------------------------------------------------------------------------

static Dropout dropout_from(const LayerRun *run, int32_t row) {
    Dropout dropout = run->dropout;
    if (dropout.p > 0) {
        dropout.owner += row;
        dropout.position += row;
    }
    return dropout;
}

Status lora_forward(Model *model, const LayerRun *run, int layer, int group, const void *x, void *h,
                    void *const y[ARCH_MODULES], int32_t row, int32_t n) {
    const Group *g = &model->state->groups[layer][group];
    if (!run->adapters || g->lora.count == 0) return STATUS_OK;
    void *out[LORA_GROUP_MAX];
    for (int i = 0; i < g->lora.count; i++) out[i] = y[g->target[i]];
    Dropout dropout = dropout_from(run, row);
    return model->options.backend->lora(model->device, &g->lora, &dropout, x, h, out, n);
}

// The dy of a group's modules.
static void group_rows(const Group *g, const void *const dy[ARCH_MODULES], const void *out[LORA_GROUP_MAX]) {
    for (int i = 0; i < g->lora.count; i++) out[i] = dy[g->target[i]];
}

Status lora_backward(Model *model, const LayerRun *run, int layer, int group, const void *const dy[ARCH_MODULES],
                     void *dh, void *dx, int32_t row, int32_t n) {
    const Group *g = &model->state->groups[layer][group];
    if (g->lora.count == 0) return STATUS_OK;
    const void *rows[LORA_GROUP_MAX];
    group_rows(g, dy, rows);
    Dropout dropout = dropout_from(run, row);
    return model->options.backend->lora_backward(model->device, &g->lora, &dropout, rows, dh, dx, n);
}

Status lora_weight_backward(Model *model, const LayerRun *run, int layer, int group, const void *x, const void *h,
                            const void *const dy[ARCH_MODULES], const void *dh, int32_t row, int32_t n) {
    const Group *g = &model->state->groups[layer][group];
    if (g->lora.count == 0) return STATUS_OK;
    const void *rows[LORA_GROUP_MAX];
    group_rows(g, dy, rows);
    Dropout dropout = dropout_from(run, row);
    return model->options.backend->lora_weight_backward(model->device, &g->lora, &dropout, x, h, rows, dh, n);
}
