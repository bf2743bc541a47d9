#include "src/base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

Status memory_alloc(void **out, size_t count, size_t size, const char *what) {
    *out = NULL;
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - MEMORY_ALIGNMENT)
        return error_set(STATUS_FAILED, "%s: %zu x %zu bytes is more than memory can hold", what, count, size);
    bytes = (bytes + MEMORY_ALIGNMENT) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
    *out = aligned_alloc(MEMORY_ALIGNMENT, bytes);
    if (*out == NULL)
        return error_set(STATUS_FAILED, "%s: cannot allocate %.1f MiB; free memory or lower the sizes that need it",
                         what, (double)bytes / 0x1p20);
    memset(*out, 0, bytes);
    return STATUS_OK;
}
