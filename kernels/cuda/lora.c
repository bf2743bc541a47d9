// LoRA on a group of modules: the order of its kernels. The products are our own (lora.cu): thin as
// they are, memory bounds them, and a library's would split their sums and clear a workspace for each.
//
// With u = dropout(x), h = u A^T, y += s h B^T:  dB += s dy^T h,  dh = s dy B,  dA += dh^T u,  dx += mask/(1-p) dh A.
// A mask only zeroes, so that u is exact in T; the factor 1/(1-p) is applied to the fp32 sums of h and dh. dh stays
// fp32 by value: in bf16 it is taken apart into three addends.
#include "kernels/cuda/lora.h"
#include "kernels/cuda/cuda.h"

static LoraMask lora_mask(const Dropout *dropout) {
    if (dropout == NULL || !(dropout->p > 0)) return (LoraMask){.keep_scale = 1};
    const double scaled = (double)dropout->p * 4294967296.0;
    uint64_t threshold = (uint64_t)scaled;
    threshold += (double)threshold < scaled; // v >= p 2^32 for integers v
    return (LoraMask){.key = dropout->key,
                      .threshold = threshold,
                      .owner = dropout->owner,
                      .position = dropout->position,
                      .keep_scale = 1.0f / (1.0f - dropout->p)};
}

static LoraRows lora_rows(const LoraGroup *group, const void *const *dy) {
    LoraRows rows = {{0}};
    for (int m = 0; m < group->count; m++) rows.of[m] = (void *)dy[m];
    return rows;
}

Status cuda_lora(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y,
                 int32_t n) {
    if (n == 0) return STATUS_OK;
    const LoraMask mask = lora_mask(dropout);
    const LoraRows rows = lora_rows(group, (const void *const *)y);
    CUDA_TRY(device, lora_low(device->dtype, group, &mask, x, h, n, device->stream));
    CUDA_TRY(device, lora_add_outputs(device->dtype, group, h, &rows, n, device->stream));
    return STATUS_OK;
}

Status cuda_lora_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *const *dy,
                          void *dh, void *dx, int32_t n) {
    if (n == 0) return STATUS_OK;
    const LoraMask mask = lora_mask(dropout);
    const LoraRows rows = lora_rows(group, dy);
    CUDA_TRY(device, lora_low_gradient(device->dtype, group, &mask, &rows, dh, n, device->stream));
    if (dx != NULL) CUDA_TRY(device, lora_add_inputs(device->dtype, group, &mask, dh, dx, n, device->stream));
    return STATUS_OK;
}

Status cuda_lora_weight_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x,
                                 const void *h, const void *const *dy, const void *dh, int32_t n) {
    if (n == 0) return STATUS_OK;
    const LoraMask mask = lora_mask(dropout);
    const LoraRows rows = lora_rows(group, dy);
    CUDA_TRY(device, lora_weight_gradients(device->dtype, group, &mask, x, h, &rows, dh, n, device->stream));
    return STATUS_OK;
}
