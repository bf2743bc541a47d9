// The tokens that end an answer, as a Hugging Face model folder names them.
#pragma once
#include "src/base/status.h"
#include <stdbool.h>
#include <stdint.h>

#define END_TOKENS_MAX 16

typedef struct EndTokens {
    int32_t id[END_TOKENS_MAX]; // [count], each once
    int32_t count;
} EndTokens;

bool end_tokens_has(const EndTokens *ends, int32_t id);
// False: there is no room.
bool end_tokens_add(EndTokens *ends, int32_t id);
// Adds eos_token_id, a number or a list, of generation_config.json, or of config.json where that file is missing, which
// is where transformers' generate takes it from. STATUS_DATA naming the file.
Status generation_config_ends(const char *model_dir, EndTokens *ends);
