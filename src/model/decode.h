// Decoding: runs of tokens over a key/value cache of rows, of which each query sees the segments that it is given.
// Which rows are whose is src/decode's.
#pragma once
#include "src/model/model.h"

// A key/value cache of `capacity` token rows per layer. One at a time.
Status model_decode_open(Model *model, int32_t capacity, int32_t max_rows);
void model_decode_close(Model *model);
// Copies `count` rows of the cache, all layers, from row `from` on to row `to` on; they do not overlap.
Status model_decode_copy(Model *model, int32_t from, int32_t to, int32_t count);
// Runs `n` tokens: row i is tokens[i] at position[i]; its keys and values go to cache row place[i]; query i sees
// queries[] over segments[] of the cache. logits host fp32[n, vocab], or NULL to fill the cache only.
Status model_decode(Model *model, const int32_t *tokens, const int32_t *position, const int32_t *place, int32_t n,
                    const Segment *segments, int32_t segment_count, const QueryRange *queries, int32_t query_count,
                    bool adapters, float *logits);
