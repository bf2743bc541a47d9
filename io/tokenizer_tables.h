// The two large tables of a tokenizer.json, its vocabulary and merges: the C face of simdjson, which reads them several
// times faster than jansson. The rest of the file, which is small, comes back as JSON.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct VocabularyEntry {
    const char *text; // [bytes], UTF-8
    size_t bytes;
    int64_t id;
} VocabularyEntry;

typedef struct MergeEntry {
    const char *left, *right;
    size_t left_bytes, right_bytes;
} MergeEntry;

typedef struct TokenizerTables {
    VocabularyEntry *vocabulary; // model.vocab, where that is an object of integers
    size_t vocabulary_count;
    MergeEntry *merges; // model.merges, as "left right" or ["left", "right"]
    size_t merge_count;
    char *rest; // [rest_bytes], the file's object without these two
    size_t rest_bytes;
    char problem[200]; // what is wrong with the tables, behind the file's name; "" if nothing
    void *document;    // what the texts stand in
} TokenizerTables;

typedef enum TablesResult { TABLES_OK, TABLES_NO_JSON, TABLES_NO_MEMORY } TablesResult;

// Reads a tokenizer.json. TABLES_NO_JSON when it is no JSON object. Free with tokenizer_tables_close in any case.
TablesResult tokenizer_tables_open(TokenizerTables *out, const char *bytes, size_t size);
void tokenizer_tables_close(TokenizerTables *tables);

#ifdef __cplusplus
}
#endif
