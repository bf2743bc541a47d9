// Host memory that is checked in one place.
#pragma once
#include "src/base/status.h"
#include <stddef.h>

#define MEMORY_ALIGNMENT 64 // one cache line, one AVX-512 register

// Up to the next multiple of MEMORY_ALIGNMENT.
static inline size_t memory_aligned(size_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

// Sets *out to `count` zeroed elements of `size` bytes, aligned to MEMORY_ALIGNMENT (never NULL, also for 0 bytes).
// STATUS_FAILED naming `what` when there is not enough memory. Release with free().
Status memory_alloc(void **out, size_t count, size_t size, const char *what);
#define MEMORY_ALLOC(pointer, count, what) memory_alloc((void **)&(pointer), (size_t)(count), sizeof *(pointer), what)
