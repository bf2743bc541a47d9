// LoRA on a group of modules: the work is in simd/lora.c, the scratch comes from here.
#include "kernels/cpu/cpu.h"

Status cpu_lora(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y,
                int32_t n) {
    if (n == 0) return STATUS_OK;
    void *scratch;
    TRY(cpu_scratch(device, device->matrix->lora_scratch(group, n, device->threads), &scratch));
    device->matrix->lora(group, dropout, x, h, y, n, device->dtype, device->threads, scratch);
    return STATUS_OK;
}

Status cpu_lora_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *const *dy,
                         void *dh, void *dx, int32_t n) {
    if (n == 0) return STATUS_OK;
    void *scratch;
    TRY(cpu_scratch(device, device->matrix->lora_scratch(group, n, device->threads), &scratch));
    device->matrix->lora_backward(group, dropout, dy, dh, dx, n, device->dtype, device->threads, scratch);
    return STATUS_OK;
}

Status cpu_lora_weight_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x,
                                const void *h, const void *const *dy, const void *dh, int32_t n) {
    if (n == 0) return STATUS_OK;
    void *scratch;
    TRY(cpu_scratch(device, device->matrix->lora_scratch(group, n, device->threads), &scratch));
    device->matrix->lora_weight_backward(group, dropout, x, h, dy, dh, n, device->dtype, device->threads, scratch);
    return STATUS_OK;
}
