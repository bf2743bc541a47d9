// The CUDA device: opening it, its memory and its op table. Ops and copies go to one stream, so each sees what the ones
// before it did; only download, sync and sum_squares wait.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/vector.h"
#include "src/base/memory.h"
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CAPABILITY_MIN = 80, // bf16 tensor cores
    STAGE_BYTES = 8 << 20,
};

struct Mapped {
    Mapped *next;
    void *copy;
};

#define WEIGHTS    "weights" // what map() allocates
#define MIB(bytes) ((double)(bytes) / 0x1p20)

Status cuda_check(const Device *device, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return STATUS_OK;
    const char *advice = "";
    switch (error) {
    case cudaErrorMemoryAllocation:
        advice = "; does another program hold its memory (nvidia-smi)?";
        break;
    case cudaErrorLaunchFailure:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorECCUncorrectable: // the device takes no more work from this process
        advice = "; the device is lost to this run, which goes on from its last checkpoint when started again";
        break;
    case cudaErrorNoKernelImageForDevice:
        advice = "; the program was built for other GPUs: build with -DCMAKE_CUDA_ARCHITECTURES=native on this machine";
        break;
    default:
        break;
    }
    return error_set(STATUS_FAILED, "%s (GPU %d): %.*s: %s: %s%s", device->name, device->index, (int)strcspn(what, "("),
                     what, cudaGetErrorName(error), cudaGetErrorString(error), advice);
}

// --- opening ---

static Status find_device(Device *device) {
    int count = 0, driver = 0, major = 0, minor = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver) {
        cudaDriverGetVersion(&driver);
        return error_set(STATUS_FAILED,
                         driver == 0 ? "no NVIDIA driver is loaded on this machine"
                                     : "the driver takes CUDA %d.%d, this program was built with %d.%d; update the "
                                       "driver, or build with an older toolkit",
                         driver / 1000, driver / 10 % 100, CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100);
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return error_set(STATUS_FAILED, "this machine has no GPU that the process may use (CUDA_VISIBLE_DEVICES?)");
    TRY(cuda_check(device, error, "cudaGetDeviceCount"));
    device->index %= count;
    struct cudaDeviceProp properties;
    TRY(cuda_check(device, cudaGetDeviceProperties(&properties, device->index), "cudaGetDeviceProperties"));
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->total_memory = properties.totalGlobalMem;
    device->shared_bytes = properties.sharedMemPerBlockOptin;
    device->multiprocessors = properties.multiProcessorCount;
    major = properties.major;
    minor = properties.minor;
    device->capability = 10 * major + minor;
    if (device->capability < CAPABILITY_MIN)
        return error_set(STATUS_FAILED,
                         "%s (GPU %d) has compute capability %d.%d; this program needs %d.%d or newer (Ampere: A100, "
                         "A10, L4, H100 ...)",
                         device->name, device->index, major, minor, CAPABILITY_MIN / 10, CAPABILITY_MIN % 10);
    CUDA_TRY(device, cudaDeviceGetPCIBusId(device->id, sizeof device->id, device->index));
    return STATUS_OK;
}

static void cuda_close(Device *device) {
    if (device == NULL) return;
    attention_close(device);
    gemm_close(device->gemm);
    for (Mapped *next, *mapped = device->mapped; mapped != NULL; mapped = next) {
        next = mapped->next;
        cudaFree(mapped->copy);
        free(mapped);
    }
    for (int i = 0; i < STAGES; i++) {
        cudaFreeHost(device->stage[i]);
        if (device->staged[i] != NULL) cudaEventDestroy(device->staged[i]);
    }
    cudaFree(device->scratch);
    cudaFree(device->sums);
    cudaFreeHost(device->host_sums);
    if (device->stream != NULL) cudaStreamDestroy(device->stream);
    free(device);
}

static Status open_parts(Device *device) {
    TRY(find_device(device));
    CUDA_TRY(device, cudaSetDevice(device->index));
    CUDA_TRY(device, cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking));
    CUDA_TRY(device, cudaMalloc((void **)&device->sums, VECTOR_SUM_PARTS * sizeof(double)));
    CUDA_TRY(device, cudaMallocHost((void **)&device->host_sums, VECTOR_SUM_PARTS * sizeof(double)));
    TRY(gemm_open(device, &device->gemm));
    return attention_open(device);
}

static Status cuda_open(const DeviceOptions *options, Device **out) {
    Device *device;
    TRY(MEMORY_ALLOC(device, 1, "the CUDA device"));
    device->dtype = options->dtype;
    device->index = options->index;
    device->weights_advice = options->weights_advice;
    device->memory_advice = options->memory_advice;
    snprintf(device->name, sizeof device->name, "CUDA");
    Status status = open_parts(device);
    if (status != STATUS_OK) {
        cuda_close(device);
        return status;
    }
    *out = device;
    return STATUS_OK;
}

static void cuda_info(const Device *device, DeviceInfo *out) {
    *out = (DeviceInfo){.threads = 1,
                        .total_memory = device->total_memory,
                        .index = device->index,
                        .key_block = attention_key_block(device)};
    const size_t cublas = cublasLtGetVersion();
    snprintf(out->name, sizeof out->name, "%.60s, compute capability %d.%d, CUDA %d.%d, cuBLASLt %zu", device->name,
             device->capability / 10, device->capability % 10, CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100,
             cublas);
    snprintf(out->id, sizeof out->id, "%s", device->id);
}

// --- memory ---

static Status out_of_memory(const Device *device, size_t bytes, const char *what) {
    size_t left = 0, total = 0;
    cudaGetLastError(); // a failed allocation is not sticky
    cudaMemGetInfo(&left, &total);
    const char *advice = strcmp(what, WEIGHTS) == 0 ? device->weights_advice : device->memory_advice;
    return error_set(STATUS_FAILED, "%s (GPU %d): no room for %.0f MiB of %s: %.0f of its %.0f MiB are free%s%s",
                     device->name, device->index, MIB(bytes), what, MIB(left), MIB(total), advice == NULL ? "" : "; ",
                     advice == NULL ? "" : advice);
}

// At least one byte, so that every buffer has an address.
static Status device_memory(Device *device, size_t bytes, const char *what, void **out) {
    *out = NULL;
    const cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) return out_of_memory(device, bytes, what);
    return cuda_check(device, error, "cudaMalloc");
}

static Status cuda_alloc(Device *device, size_t bytes, const char *what, void **out) {
    TRY(device_memory(device, bytes, what, out));
    CUDA_TRY(device, cudaMemsetAsync(*out, 0, bytes > 0 ? bytes : 1, device->stream));
    return STATUS_OK;
}

static Status cuda_alloc_paged(Device *device, size_t bytes, const char *what, void **out) {
    *out = NULL;
    const size_t room = bytes > 0 ? bytes : 1;
    const cudaError_t error = cudaMallocManaged(out, room, cudaMemAttachGlobal);
    if (error == cudaErrorMemoryAllocation) return out_of_memory(device, bytes, what);
    TRY(cuda_check(device, error, "cudaMallocManaged"));
    CUDA_TRY(device, cudaMemsetAsync(*out, 0, room, device->stream));
    return STATUS_OK;
}

static void cuda_release(Device *device, void *buffer) {
    (void)device;
    cudaFree(buffer); // waits for the device; NULL is allowed
}

static Status open_stages(Device *device) {
    for (int i = 0; i < STAGES; i++) {
        if (device->stage[i] == NULL) CUDA_TRY(device, cudaMallocHost((void **)&device->stage[i], STAGE_BYTES));
        if (device->staged[i] == NULL)
            CUDA_TRY(device, cudaEventCreateWithFlags(&device->staged[i], cudaEventDisableTiming));
    }
    return STATUS_OK;
}

// A copy of what is mapped, through pinned buffers: one is read from the file while the other is copied.
static Status copy_staged(Device *device, char *to, const char *host, size_t bytes) {
    TRY(open_stages(device));
    size_t done = 0;
    for (int turn = 0; done < bytes; turn = (turn + 1) % STAGES) {
        const size_t part = bytes - done < STAGE_BYTES ? bytes - done : STAGE_BYTES;
        CUDA_TRY(device, cudaEventSynchronize(device->staged[turn]));
        memcpy(device->stage[turn], host + done, part);
        CUDA_TRY(device, cudaMemcpyAsync(to + done, device->stage[turn], part, cudaMemcpyHostToDevice, device->stream));
        CUDA_TRY(device, cudaEventRecord(device->staged[turn], device->stream));
        done += part;
    }
    return STATUS_OK;
}

static Status cuda_map(Device *device, const HostPiece *pieces, int32_t count) {
    size_t bytes = 0;
    for (int32_t i = 0; i < count; i++) bytes += pieces[i].bytes;
    Mapped *mapped;
    TRY(MEMORY_ALLOC(mapped, 1, "the list of weights"));
    const Status status = device_memory(device, bytes, WEIGHTS, &mapped->copy);
    if (status != STATUS_OK) {
        free(mapped);
        return status;
    }
    mapped->next = device->mapped;
    device->mapped = mapped;
    char *to = mapped->copy;
    for (int32_t i = 0; i < count; to += pieces[i++].bytes) {
        *pieces[i].out = to;
        TRY(copy_staged(device, to, pieces[i].host, pieces[i].bytes));
    }
    return STATUS_OK;
}

// The caller may change `host` at once: from memory that is not pinned the runtime takes a copy before it returns.
static Status cuda_upload(Device *device, void *to, const void *host, size_t bytes) {
    if (bytes == 0) return STATUS_OK;
    CUDA_TRY(device, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, device->stream));
    return STATUS_OK;
}

static Status cuda_download(Device *device, void *host, const void *from, size_t bytes) {
    if (bytes > 0) CUDA_TRY(device, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, device->stream));
    CUDA_TRY(device, cudaStreamSynchronize(device->stream));
    return STATUS_OK;
}

static Status cuda_zero(Device *device, void *buffer, size_t bytes) {
    if (bytes == 0) return STATUS_OK;
    CUDA_TRY(device, cudaMemsetAsync(buffer, 0, bytes, device->stream));
    return STATUS_OK;
}

static Status cuda_sync(Device *device) {
    CUDA_TRY(device, cudaStreamSynchronize(device->stream));
    return STATUS_OK;
}

static void *cuda_stream(Device *device) {
    return device->stream;
}

// --- scratch ---

// Of the one piece that ops take in turn.
static size_t shared_scratch_bytes(DType dtype, const DeviceShapes *shapes) {
    const size_t needs[] = {head_scratch_bytes(shapes, dtype), attention_scratch_bytes(shapes)};
    size_t most = 0;
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) most = needs[i] > most ? needs[i] : most;
    return most;
}

static size_t cuda_scratch_bytes(const DeviceOptions *options, const DeviceShapes *shapes) {
    return shared_scratch_bytes(options->dtype, shapes) + attention_reserved_bytes(shapes);
}

static Status grow_scratch(Device *device, size_t bytes) {
    if (bytes <= device->scratch_bytes) return STATUS_OK;
    cudaFree(device->scratch); // waits for the device: nothing uses it any more
    device->scratch = NULL;
    device->scratch_bytes = 0;
    TRY(device_memory(device, bytes, "scratch", &device->scratch));
    device->scratch_bytes = bytes;
    return STATUS_OK;
}

static Status cuda_reserve(Device *device, const DeviceShapes *shapes) {
    TRY(attention_reserve(device, shapes));
    return grow_scratch(device, shared_scratch_bytes(device->dtype, shapes));
}

static void cuda_warm(Device *device, int32_t tokens) {
    gemm_warm(device->gemm, tokens);
}

Status cuda_scratch(Device *device, size_t bytes, void **out) {
    TRY(grow_scratch(device, bytes));
    *out = device->scratch;
    return STATUS_OK;
}

// What the program looks for in the module.
extern const Backend backend_cuda __attribute__((visibility("default")));

const Backend backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .reserve = cuda_reserve,
    .scratch_bytes = cuda_scratch_bytes,
    .warm = cuda_warm,
    .alloc = cuda_alloc,
    .alloc_paged = cuda_alloc_paged,
    .release = cuda_release,
    .map = cuda_map,
    .upload = cuda_upload,
    .download = cuda_download,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .stream = cuda_stream,
    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .rmsnorm_backward = cuda_rmsnorm_backward,
    .rope = cuda_rope,
    .swiglu = cuda_swiglu,
    .swiglu_backward = cuda_swiglu_backward,
    .scale_rows = cuda_scale_rows,
    .scale_add = cuda_scale_add,
    .scatter_rows = cuda_scatter_rows,
    .linear = cuda_linear,
    .linear_backward = cuda_linear_backward,
    .lora = cuda_lora,
    .lora_backward = cuda_lora_backward,
    .lora_weight_backward = cuda_lora_weight_backward,
    .attention = cuda_attention,
    .attention_backward = cuda_attention_backward,
    .head = cuda_head,
    .head_logits = cuda_head_logits,
    .cast = cuda_cast,
    .sum_squares = cuda_sum_squares,
    .adamw = cuda_adamw,
};
