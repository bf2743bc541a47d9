// The CPU device: opening it (which instruction set, how many threads), its memory, and its op table.
//
// oneDNN's choice of instruction set governs the whole device, so ONEDNN_MAX_CPU_ISA=AVX2 gives an AVX2 run throughout.
#include "kernels/cpu/cpu.h"
#include "src/base/memory.h"
#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has_isa(int isa) {
    return ((int)dnnl_get_effective_cpu_isa() & isa) == isa;
}

static const char *isa_name(void) {
    if (has_isa(dnnl_cpu_isa_avx512_core_amx)) return "avx512_core_amx";
    if (has_isa(dnnl_cpu_isa_avx512_core_bf16)) return "avx512_core_bf16";
    if (has_isa(dnnl_cpu_isa_avx512_core)) return "avx512_core";
    return "avx2";
}

static void cpu_close(Device *device) {
    if (!device) return;
    gemm_close(device->gemm);
    free(device->scratch);
    free(device);
}

static int threads_of(const DeviceOptions *options) {
    static int all_threads; // OpenMP's own number (affinity, OMP_NUM_THREADS), before we set one
    if (!all_threads) all_threads = omp_get_max_threads();
    return options->threads > 0 ? options->threads : all_threads;
}

static void choose_tables(Device *device) {
    bool avx512 = has_isa(dnnl_cpu_isa_avx512_core);
    device->simd = avx512 ? &simd_ops_avx512 : &simd_ops_avx2;
    device->matrix = avx512 ? &matrix_ops_avx512 : &matrix_ops_avx2;
    // Intel's cores do VDPBF16PS at half the rate of fp32's (gemm.c), so there W is widened in registers.
    bool dot = has_isa(dnnl_cpu_isa_avx512_core_bf16) && !__builtin_cpu_is("intel");
    device->thin = dot ? thin_avx512bf16 : avx512 ? thin_avx512 : thin_avx2;
}

static Status cpu_open(const DeviceOptions *options, Device **out) {
    if (!has_isa(dnnl_cpu_isa_avx2))
        return error_set(STATUS_FAILED, "this CPU (or ONEDNN_MAX_CPU_ISA) has no AVX2; use a newer one");
    Device *device;
    TRY(MEMORY_ALLOC(device, 1, "the CPU device"));
    device->dtype = options->dtype;
    device->threads = threads_of(options);
    choose_tables(device);
    device->isa = isa_name();
    device->bf16_gemm = gemm_multiplies_bf16();
    omp_set_num_threads(device->threads);
    Status status = gemm_open(device->matrix, &device->gemm);
    if (status != STATUS_OK) {
        cpu_close(device);
        return status;
    }
    *out = device;
    return STATUS_OK;
}

static void cpu_info(const Device *device, DeviceInfo *out) {
    *out = (DeviceInfo){.threads = device->threads,
                        .total_memory = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE),
                        .key_block = device->simd->attention_key_block};
    bool widened = device->dtype == DTYPE_BF16 && !device->bf16_gemm;
    const dnnl_version_t *version = dnnl_version();
    snprintf(out->name, sizeof out->name, "CPU, %d thread%s, %s%s, oneDNN %d.%d.%d", device->threads,
             device->threads == 1 ? "" : "s", device->isa, widened ? ", bf16 products in fp32" : "", version->major,
             version->minor, version->patch);
    if (widened)
        snprintf(out->note, sizeof out->note,
                 "bfloat16 is how weights and activations are stored; this CPU multiplies faster in float32, so "
                 "products are "
                 "computed in float32");
}

Status cpu_scratch(Device *device, size_t bytes, void **out) {
    if (bytes > device->scratch_bytes) {
        free(device->scratch);
        device->scratch = NULL;
        device->scratch_bytes = 0;
        TRY(memory_alloc(&device->scratch, 1, bytes, "scratch of the CPU device"));
        device->scratch_bytes = bytes;
    }
    *out = device->scratch;
    return STATUS_OK;
}

static size_t scratch_bytes(const Device *device, const DeviceShapes *shapes) {
    LoraGroup widest = {.count = LORA_GROUP_MAX, .in = shapes->features, .r = shapes->lora_rank};
    for (int i = 0; i < LORA_GROUP_MAX; i++) widest.module[i].out = shapes->features;
    const size_t needs[] = {device->matrix->lora_scratch(&widest, shapes->tokens, device->threads),
                            cpu_head_scratch(shapes->tokens, shapes->vocab),
                            device->simd->attention_scratch * (size_t)device->threads};
    size_t most = 0;
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) most = needs[i] > most ? needs[i] : most;
    return most;
}

static Status cpu_reserve(Device *device, const DeviceShapes *shapes) {
    void *scratch;
    return cpu_scratch(device, scratch_bytes(device, shapes), &scratch);
}

static size_t cpu_scratch_bytes(const DeviceOptions *options, const DeviceShapes *shapes) {
    Device device = {.threads = threads_of(options)};
    choose_tables(&device);
    return scratch_bytes(&device, shapes);
}

static Status cpu_alloc(Device *device, size_t bytes, const char *what, void **out) {
    (void)device;
    return memory_alloc(out, 1, bytes, what);
}

static void cpu_release(Device *device, void *buffer) {
    (void)device;
    free(buffer);
}

static Status cpu_map(Device *device, const HostPiece *pieces, int32_t count) {
    (void)device;
    for (int32_t i = 0; i < count; i++) *pieces[i].out = pieces[i].host;
    return STATUS_OK;
}

static Status cpu_copy(Device *device, void *to, const void *from, size_t bytes) {
    (void)device;
    if (bytes > 0) memcpy(to, from, bytes);
    return STATUS_OK;
}

static Status cpu_zero(Device *device, void *buffer, size_t bytes) {
    (void)device;
    if (bytes > 0) memset(buffer, 0, bytes);
    return STATUS_OK;
}

static Status cpu_sync(Device *device) {
    (void)device; // every op is done when it returns
    return STATUS_OK;
}

static void *cpu_stream(Device *device) {
    (void)device;
    return NULL;
}

const Backend backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .reserve = cpu_reserve,
    .scratch_bytes = cpu_scratch_bytes,
    .warm = NULL,
    .alloc = cpu_alloc,
    .alloc_paged = cpu_alloc,
    .release = cpu_release,
    .map = cpu_map,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .stream = cpu_stream,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .rmsnorm_backward = cpu_rmsnorm_backward,
    .rope = cpu_rope,
    .swiglu = cpu_swiglu,
    .swiglu_backward = cpu_swiglu_backward,
    .scale_rows = cpu_scale_rows,
    .scale_add = cpu_scale_add,
    .scatter_rows = cpu_scatter_rows,
    .linear = cpu_linear,
    .linear_backward = cpu_linear_backward,
    .lora = cpu_lora,
    .lora_backward = cpu_lora_backward,
    .lora_weight_backward = cpu_lora_weight_backward,
    .attention = cpu_attention,
    .attention_backward = cpu_attention_backward,
    .head = cpu_head,
    .head_logits = cpu_head_logits,
    .cast = cpu_cast,
    .sum_squares = cpu_sum_squares,
    .adamw = cpu_adamw,
};
