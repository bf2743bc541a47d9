// Drawing the next token from its logits.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct DrawOptions {
    bool greedy;
    double temperature, top_p; // top_p 1: off
    int32_t top_k;             // 0: off
} DrawOptions;

// Bytes of scratch that one draw needs, a multiple of 64.
size_t draw_scratch(int32_t vocab);

// Logits are divided by the temperature, cut to the top_k likeliest, then to the smallest set of those that holds top_p
// (transformers' order). `uniform` in [0, 1) chooses.
int32_t draw_token(const float *logits, int32_t vocab, const DrawOptions *options, double uniform, void *scratch);
