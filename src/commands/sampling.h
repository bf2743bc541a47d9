// What commands that sample have in common.
#pragma once
#include "src/commands/command.h"
#include "src/decode/answers.h"

// The flags of commands that sample: `member` is the SampleOptions of their struct of options.
#define SAMPLING_FLAGS(type, member)                                                                                   \
    {.name = "--greedy",                                                                                               \
     .kind = FLAG_SWITCH,                                                                                              \
     .offset = offsetof(type, member.greedy),                                                                          \
     .help = "always the likeliest token"},                                                                            \
        {.name = "--temperature",                                                                                      \
         .value = "T",                                                                                                 \
         .kind = FLAG_REAL,                                                                                            \
         .offset = offsetof(type, member.temperature),                                                                 \
         .high = 100,                                                                                                  \
         .help = "divides the logits (1)"},                                                                            \
        {.name = "--top-k",                                                                                            \
         .value = "K",                                                                                                 \
         .kind = FLAG_WHOLE,                                                                                           \
         .offset = offsetof(type, member.top_k),                                                                       \
         .high = INT32_MAX,                                                                                            \
         .help = "only the K likeliest tokens (0: all)"},                                                              \
        {.name = "--top-p",                                                                                            \
         .value = "P",                                                                                                 \
         .kind = FLAG_REAL,                                                                                            \
         .offset = offsetof(type, member.top_p),                                                                       \
         .high = 1,                                                                                                    \
         .help = "only the likeliest tokens that hold P of the probability (1: all)"},                                 \
        {.name = "--seed",                                                                                             \
         .value = "S",                                                                                                 \
         .kind = FLAG_WHOLE,                                                                                           \
         .offset = offsetof(type, member.seed),                                                                        \
         .high = 9007199254740992.0,                                                                                   \
         .help = "of the random numbers (0)"},                                                                         \
    {                                                                                                                  \
        .name = "--max-tokens", .value = "N", .kind = FLAG_WHOLE, .offset = offsetof(type, member.max_tokens),         \
        .low = 1, .high = 1 << 20, .help = "longest answer (256)"                                                      \
    }
