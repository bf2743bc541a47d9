// Products of few rows (thin.c): the contract, and one function an instruction set. avx512bf16 is avx512 with the
// bf16 products of AVX512_BF16; nothing else of this folder is compiled for it.
#pragma once
#include "kernels/backend.h"

// y = x W^T + bias; x T[n, in], W T[out, in], T being `type`; y and bias of y_type, bias may be NULL. in > 0.
typedef struct ThinCall {
    const void *w, *x, *bias;
    void *y; // row i at element i * ldy
    int32_t n, in, out, ldy;
    DType type, y_type;
} ThinCall;

// Outputs [begin, end) of all rows, on the calling thread. An element's bits depend on its row of x and its row of W
// only: not on n, nor on begin and end.
typedef void ThinProduct(const ThinCall *call, int32_t begin, int32_t end);
ThinProduct thin_avx2, thin_avx512, thin_avx512bf16;
