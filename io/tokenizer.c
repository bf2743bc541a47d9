// A Llama tokenizer: byte-pair merges with byte fallback over the pieces of a SentencePiece model, in the order and
// with the treatment of spaces and control tokens of the tokenizer.json that transformers made of such models (legacy =
// true, as TinyLlama ships it). Where that differs from SentencePiece's own encoding, the tokenizer.json is followed:
//   1. control tokens are cut out of the raw text, the leftmost and longest first;
//   2. each piece of text between them gets "▁" in front, and every space becomes "▁" (nothing is put before no text);
//   3. added tokens marked "normalized" are cut out of the result (their own text having gone through step 2);
//   4. what is left is merged: of all neighbours that can merge, the best-scored, then the leftmost; characters that
//   the
//      vocabulary lacks are spelt in bytes.
// Reading the model file is io/sentencepiece.cc's; which text is tokenised how is src/dataset's.
#include "io/tokenizer.h"
#include "io/files.h"
#include "io/json_file.h"
#include "io/sentencepiece.h"
#include "src/base/hash.h"
#include "src/base/memory.h"
#include "src/base/text.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES_MAX  ((size_t)256 << 20)
#define CONFIG_BYTES_MAX ((size_t)64 << 20)
#define VOCAB_MAX        (1 << 24)
#define PIECE_BYTES_MAX  4096
#define TEXT_BYTES_MAX   ((size_t)256 << 20) // of one text; ids, positions and capacities then fit 32 bits
#define ADDED_IDS_MAX    (1 << 16)           // ids behind the model's own: a table of all ids is made
#define NO_TOKEN         (-1)

static const char space_mark[] = "\xE2\x96\x81"; // "▁", U+2581
#define SPACE_MARK_BYTES 3
static const char replacement[] = "\xEF\xBF\xBD"; // U+FFFD

// A piece by its text: open addressing, ids; the text stands in Tokenizer.token.
typedef struct PieceTable {
    int32_t *id; // [mask + 1], NO_TOKEN where free
    uint32_t mask;
} PieceTable;

// (left, right) -> merged piece and its rank (0 first).
typedef struct Merge {
    uint64_t pair; // left << 32 | right; UINT64_MAX where free
    int32_t rank, id;
} Merge;

// A list of texts to be cut out, sorted by first byte, then longest first.
typedef struct Cutter {
    int32_t *id; // [count]
    char **text; // [count]
    int32_t *bytes;
    int32_t count;
    int32_t first[257]; // candidates for a first byte b: [first[b], first[b + 1])
} Cutter;

typedef struct Token {
    char *text; // NULL for an id that no piece has
    int32_t bytes;
    bool added, special, normalized;
    int16_t byte; // of a byte piece, else -1
} Token;

struct Tokenizer {
    Token *token; // [count]
    int32_t count, model_count;
    int32_t byte_id[256], unknown;
    bool byte_fallback;
    PieceTable pieces; // those that merging and spelling may give
    Merge *merge;      // [merge_mask + 1]
    uint32_t merge_mask;
    bool mark_starts_word; // no piece has "▁" behind another character, so that words can be merged one by one
    Cutter raw, normalized;
    int32_t bos, eos;
    bool adds_bos;
    uint64_t hash;
};

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory for the tokenizer");
}

// ---- the vocabulary ----

static int32_t piece_find(const Tokenizer *t, const char *text, size_t bytes) {
    for (uint32_t i = (uint32_t)hash_bytes(0, text, bytes) & t->pieces.mask;; i = (i + 1) & t->pieces.mask) {
        int32_t id = t->pieces.id[i];
        if (id == NO_TOKEN) return NO_TOKEN;
        if ((size_t)t->token[id].bytes == bytes && memcmp(t->token[id].text, text, bytes) == 0) return id;
    }
}

static void piece_insert(Tokenizer *t, int32_t id) {
    const Token *token = &t->token[id];
    uint32_t i = (uint32_t)hash_bytes(0, token->text, (size_t)token->bytes) & t->pieces.mask;
    while (t->pieces.id[i] != NO_TOKEN) i = (i + 1) & t->pieces.mask;
    t->pieces.id[i] = id;
}

static uint32_t table_mask(size_t entries) {
    uint32_t size = 16;
    while (size < 2 * entries) size *= 2;
    return size - 1;
}

static uint32_t pair_slot(uint64_t pair, uint32_t mask) {
    return (uint32_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & mask; // Fibonacci hashing
}

static const Merge *merge_find(const Tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint32_t i = pair_slot(pair, t->merge_mask);; i = (i + 1) & t->merge_mask) {
        if (t->merge[i].pair == pair) return &t->merge[i];
        if (t->merge[i].pair == UINT64_MAX) return NULL;
    }
}

// A merge before it has its rank. The order is that of transformers' SentencePieceExtractor: by score, then by piece,
// then by the ids of its two parts.
typedef struct RankedMerge {
    float score;
    int32_t id, left, right;
} RankedMerge;

static int compare_merges(const void *a, const void *b) {
    const RankedMerge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static bool char_starts(char c) {
    return ((unsigned char)c & 0xC0) != 0x80;
}

static Status build_merges(Tokenizer *t, const SentencePiece *model) {
    RankedMerge *list = NULL;
    size_t count = 0, capacity = 0;
    for (int32_t id = 0; id < t->model_count; id++) {
        const Token *token = &t->token[id];
        if (token->added || token->byte >= 0) continue;
        for (int32_t cut = 1; cut < token->bytes; cut++) {
            if (!char_starts(token->text[cut])) continue;
            int32_t left = piece_find(t, token->text, (size_t)cut);
            int32_t right = piece_find(t, token->text + cut, (size_t)(token->bytes - cut));
            if (left == NO_TOKEN || right == NO_TOKEN) continue;
            if (count == capacity) {
                capacity = capacity == 0 ? 65536 : 2 * capacity;
                RankedMerge *grown = realloc(list, capacity * sizeof *list);
                if (grown == NULL) {
                    free(list);
                    return no_memory();
                }
                list = grown;
            }
            list[count++] = (RankedMerge){sentencepiece_score(model, id), id, left, right};
        }
    }
    if (count > 0) qsort(list, count, sizeof *list, compare_merges);
    t->merge_mask = table_mask(count);
    t->merge = malloc(((size_t)t->merge_mask + 1) * sizeof *t->merge);
    if (t->merge == NULL) {
        free(list);
        return no_memory();
    }
    for (size_t i = 0; i <= t->merge_mask; i++) t->merge[i].pair = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        uint64_t pair = (uint64_t)(uint32_t)list[i].left << 32 | (uint32_t)list[i].right;
        uint32_t slot = pair_slot(pair, t->merge_mask);
        while (t->merge[slot].pair != UINT64_MAX) slot = (slot + 1) & t->merge_mask;
        t->merge[slot] = (Merge){pair, (int32_t)i, list[i].id};
    }
    free(list);
    return STATUS_OK;
}

static bool mark_behind_other(const Token *token) {
    bool other = false;
    for (int32_t i = 0; i < token->bytes; i++) {
        bool mark = token->bytes - i >= SPACE_MARK_BYTES && memcmp(token->text + i, space_mark, SPACE_MARK_BYTES) == 0;
        if (mark && other) return true;
        if (mark)
            i += SPACE_MARK_BYTES - 1;
        else
            other = true;
    }
    return false;
}

// Pieces of the model. Control, unknown and user-defined pieces are added tokens, as transformers converts them.
static Status read_pieces(Tokenizer *t, const SentencePiece *model, const char *path) {
    int32_t last_byte = NO_TOKEN, byte_count = 0;
    for (int i = 0; i < 256; i++) t->byte_id[i] = NO_TOKEN;
    for (int32_t id = 0; id < t->model_count; id++) {
        Token *token = &t->token[id];
        PieceKind kind = sentencepiece_kind(model, id);
        const char *text = sentencepiece_text(model, id);
        size_t bytes = strlen(text);
        if (bytes == 0 || bytes > PIECE_BYTES_MAX)
            return error_set(STATUS_DATA, "%s: piece %d has %zu bytes; the file is damaged", path, id, bytes);
        if (kind == PIECE_UNUSED)
            return error_set(STATUS_DATA, "%s: piece %d (\"%s\") is marked unused; such models are not supported", path,
                             id, text);
        if (!isfinite(sentencepiece_score(model, id))) // merges are sorted by it
            return error_set(STATUS_DATA, "%s: piece %d (\"%s\") has a score that is no number; the file is damaged",
                             path, id, text);
        *token = (Token){.text = strdup(text), .bytes = (int32_t)bytes, .byte = -1};
        if (token->text == NULL) return no_memory();
        token->added = token->special = kind == PIECE_CONTROL || kind == PIECE_UNKNOWN;
        if (kind == PIECE_UNKNOWN) t->unknown = id;
        if (kind == PIECE_BYTE) {
            unsigned value;
            if (sscanf(text, "<0x%2X>", &value) != 1)
                return error_set(STATUS_DATA, "%s: byte piece %d is \"%s\", not <0x00> to <0xFF>", path, id, text);
            token->byte = (int16_t)value;
            byte_count += t->byte_id[value] == NO_TOKEN;
            t->byte_id[value] = id;
            last_byte = id;
        }
    }
    t->byte_fallback = byte_count == 256;
    t->mark_starts_word = true;
    for (int32_t id = 0; id < t->model_count; id++) {
        Token *token = &t->token[id];
        // SentencePiece numbers its special pieces first and its byte pieces next; an ordinary piece that stands before
        // the last of these is a user-defined symbol.
        if (!token->added && token->byte < 0 && id < last_byte) token->added = true;
        if (token->added || token->byte >= 0) continue;
        piece_insert(t, id);
        if (mark_behind_other(token)) t->mark_starts_word = false;
    }
    return STATUS_OK;
}

// ---- tokenizer_config.json and its neighbours ----

// The JSON object DIR/NAME; *out NULL when there is no such file.
static Status read_json(const char *dir, const char *name, char path[PATH_MAX], json_t **out) {
    *out = NULL;
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return error_set(STATUS_DATA, "%s: the path is too long", dir);
    if (!file_exists(path)) return STATUS_OK;
    return json_file_object(path, CONFIG_BYTES_MAX, out);
}

// The text of a token given as "text" or {"content": "text"}; NULL if neither.
static const char *token_text(const json_t *value) {
    return json_text(json_is_object(value) ? json_object_get(value, "content") : value);
}

static int32_t token_id(const Tokenizer *t, const char *text) {
    for (int32_t id = 0; id < t->count; id++)
        if (t->token[id].text != NULL && strcmp(t->token[id].text, text) == 0) return id;
    return NO_TOKEN;
}

// Makes `text` the added token `id`.
static Status add_token(Tokenizer *t, int64_t id, const char *text, bool special, bool normalized, const char *path) {
    if (text == NULL || text[0] == '\0' || strlen(text) > PIECE_BYTES_MAX)
        return error_set(STATUS_DATA, "%s: added token %lld has no usable text", path, (long long)id);
    if (id < 0 || id >= t->model_count + ADDED_IDS_MAX)
        return error_set(STATUS_DATA, "%s: added token \"%s\" has the id %lld; ids are 0 to %d", path, text,
                         (long long)id, t->model_count + ADDED_IDS_MAX - 1);
    if (id >= t->count) {
        Token *grown = realloc(t->token, (size_t)(id + 1) * sizeof *grown);
        if (grown == NULL) return no_memory();
        t->token = grown;
        for (int64_t i = t->count; i <= id; i++) grown[i] = (Token){.byte = -1};
        t->count = (int32_t)(id + 1);
    }
    Token *token = &t->token[id];
    if (token->text != NULL && strcmp(token->text, text) != 0)
        return error_set(STATUS_DATA, "%s: added token \"%s\" has the id %lld, which is already \"%s\"", path, text,
                         (long long)id, token->text);
    if (token->text == NULL && (token->text = strdup(text)) == NULL) return no_memory();
    token->bytes = (int32_t)strlen(text);
    token->added = true;
    token->special = special;
    token->normalized = normalized;
    return STATUS_OK;
}

static Status read_added_tokens_decoder(Tokenizer *t, json_t *config, const char *path) {
    const char *key;
    json_t *entry;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, entry) {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (end == key || *end != '\0')
            return error_set(STATUS_DATA, "%s: added_tokens_decoder has the key \"%s\", which is no token id", path,
                             key);
        const char *text = token_text(entry);
        static const char *const refused[] = {"lstrip", "rstrip", "single_word"};
        for (int i = 0; i < 3; i++)
            if (json_is_true(json_object_get(entry, refused[i])))
                return error_set(STATUS_DATA,
                                 "%s: added token %s (\"%s\") has \"%s\": true, which is not supported; set it to "
                                 "false",
                                 path, key, text == NULL ? "" : text, refused[i]);
        TRY(add_token(t, id, text, json_is_true(json_object_get(entry, "special")),
                      json_is_true(json_object_get(entry, "normalized")), path));
    }
    return STATUS_OK;
}

// Names that stand for special tokens in tokenizer_config.json and special_tokens_map.json.
static bool names_special(const json_t *object, const char *text) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                        "sep_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *found = token_text(json_object_get(object, names[i]));
        if (found != NULL && strcmp(found, text) == 0) return true;
    }
    size_t index;
    json_t *value;
    json_array_foreach(json_object_get(object, "additional_special_tokens"), index, value) {
        const char *found = token_text(value);
        if (found != NULL && strcmp(found, text) == 0) return true;
    }
    return false;
}

// added_tokens.json, {"text": id}: what older folders have instead of added_tokens_decoder.
static Status read_added_tokens(Tokenizer *t, json_t *added, const json_t *config, const json_t *map,
                                const char *path) {
    const char *text;
    json_t *id;
    json_object_foreach(added, text, id) {
        if (!json_is_integer(id)) return error_set(STATUS_DATA, "%s: the id of \"%s\" must be an integer", path, text);
        json_int_t value = json_integer_value(id);
        if (value >= 0 && value < t->count && t->token[value].added) continue;
        bool special = names_special(config, text) || names_special(map, text);
        TRY(add_token(t, value, text, special, !special, path)); // transformers' default for such a token
    }
    return STATUS_OK;
}

// The id of bos_token or eos_token: as tokenizer_config.json says (null: none), else special_tokens_map.json, else the
// model.
static Status named_token(const Tokenizer *t, const json_t *config, const json_t *map, const char *name,
                          int32_t of_model, const char *path, int32_t *out) {
    const json_t *value = json_object_get(config, name);
    if (value == NULL) value = json_object_get(map, name);
    *out = of_model;
    if (value == NULL) return STATUS_OK;
    *out = NO_TOKEN;
    if (json_is_null(value)) return STATUS_OK;
    const char *text = token_text(value);
    if (text == NULL) return error_set(STATUS_DATA, "%s: %s must be text", path, name);
    *out = token_id(t, text);
    if (*out == NO_TOKEN)
        return error_set(STATUS_DATA, "%s: %s is \"%s\", which is not in the vocabulary", path, name, text);
    return STATUS_OK;
}

static Status apply_configs(Tokenizer *t, json_t *config, json_t *map, json_t *added, const SentencePiece *model,
                            const char *config_path, const char *added_path) {
    if (json_is_true(json_object_get(config, "add_eos_token")))
        return error_set(STATUS_DATA, "%s: add_eos_token is true, which is not supported; set it to false",
                         config_path);
    TRY(read_added_tokens_decoder(t, config, config_path));
    TRY(read_added_tokens(t, added, config, map, added_path));
    TRY(named_token(t, config, map, "bos_token", sentencepiece_bos(model), config_path, &t->bos));
    TRY(named_token(t, config, map, "eos_token", sentencepiece_eos(model), config_path, &t->eos));
    if (t->eos == NO_TOKEN)
        return error_set(STATUS_DATA, "%s: there is no eos_token; name the token that ends an answer", config_path);
    t->adds_bos = t->bos != NO_TOKEN && !json_is_false(json_object_get(config, "add_bos_token"));
    return STATUS_OK;
}

static Status read_configs(Tokenizer *t, const char *dir, const SentencePiece *model) {
    char config_path[PATH_MAX], map_path[PATH_MAX], added_path[PATH_MAX];
    json_t *config = NULL, *map = NULL, *added = NULL;
    Status status;
    TRY_GOTO(read_json(dir, "tokenizer_config.json", config_path, &config), done);
    TRY_GOTO(read_json(dir, "special_tokens_map.json", map_path, &map), done);
    TRY_GOTO(read_json(dir, "added_tokens.json", added_path, &added), done);
    status = apply_configs(t, config, map, added, model, config_path, added_path);
done:
    json_decref(config);
    json_decref(map);
    json_decref(added);
    return status;
}

// ---- cutting added tokens out of text ----

// Step 2 of the file's head: "▁" in front, spaces to "▁". Appends to `to`, which has room for 3 * (bytes + 1).
static size_t normalize(const char *text, size_t bytes, char *to) {
    if (bytes == 0) return 0;
    size_t length = SPACE_MARK_BYTES;
    memcpy(to, space_mark, SPACE_MARK_BYTES);
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ') {
            memcpy(to + length, space_mark, SPACE_MARK_BYTES);
            length += SPACE_MARK_BYTES;
        } else {
            to[length++] = text[i];
        }
    }
    return length;
}

typedef struct CutterEntry {
    char *text;
    int32_t id, bytes;
} CutterEntry;

static int compare_entries(const void *a, const void *b) {
    const CutterEntry *x = a, *y = b;
    int by_byte = (unsigned char)x->text[0] - (unsigned char)y->text[0];
    if (by_byte != 0) return by_byte;
    if (x->bytes != y->bytes) return y->bytes - x->bytes;
    return x->id - y->id;
}

static Status cutter_build(Cutter *cutter, const Tokenizer *t, bool normalized) {
    int32_t count = 0;
    for (int32_t id = 0; id < t->count; id++) count += t->token[id].added && t->token[id].normalized == normalized;
    CutterEntry *entry = calloc((size_t)count + 1, sizeof *entry);
    cutter->id = calloc((size_t)count + 1, sizeof *cutter->id);
    cutter->text = calloc((size_t)count + 1, sizeof *cutter->text);
    cutter->bytes = calloc((size_t)count + 1, sizeof *cutter->bytes);
    bool failed = entry == NULL || cutter->id == NULL || cutter->text == NULL || cutter->bytes == NULL;
    for (int32_t id = 0, i = 0; id < t->count && !failed; id++) {
        const Token *token = &t->token[id];
        if (!token->added || token->normalized != normalized) continue;
        char *text = malloc(3 * ((size_t)token->bytes + 1) + 1);
        if (text == NULL) {
            failed = true;
            break;
        }
        size_t bytes = (size_t)token->bytes;
        if (normalized)
            bytes = normalize(token->text, bytes, text);
        else
            memcpy(text, token->text, bytes);
        entry[i++] = (CutterEntry){text, id, (int32_t)bytes};
        cutter->count = i;
    }
    if (!failed) qsort(entry, (size_t)count, sizeof *entry, compare_entries);
    for (int32_t i = 0; i < cutter->count && entry != NULL && cutter->text != NULL; i++)
        cutter->text[i] = entry[i].text;
    for (int32_t i = 0; i < cutter->count && !failed; i++) {
        cutter->id[i] = entry[i].id;
        cutter->bytes[i] = entry[i].bytes;
        cutter->first[(unsigned char)entry[i].text[0] + 1] = i + 1;
    }
    for (int b = 1; b <= 256; b++)
        if (cutter->first[b] < cutter->first[b - 1]) cutter->first[b] = cutter->first[b - 1];
    free(entry);
    return failed ? no_memory() : STATUS_OK;
}

static void cutter_free(Cutter *cutter) {
    for (int32_t i = 0; i < cutter->count; i++) free(cutter->text[i]);
    free(cutter->text);
    free(cutter->id);
    free(cutter->bytes);
}

// The first token in text[from, bytes): its index in the cutter and *at; -1 and *at = bytes when there is none.
static int32_t cutter_next(const Cutter *cutter, const char *text, size_t from, size_t bytes, size_t *at) {
    for (size_t i = from; i < bytes && cutter->count > 0; i++) {
        unsigned char b = (unsigned char)text[i];
        for (int32_t k = cutter->first[b]; k < cutter->first[b + 1]; k++) {
            if ((size_t)cutter->bytes[k] <= bytes - i &&
                memcmp(text + i, cutter->text[k], (size_t)cutter->bytes[k]) == 0) {
                *at = i;
                return k;
            }
        }
    }
    *at = bytes;
    return -1;
}

// ---- encoding ----

// One symbol of a word while it is merged; a list by index, -1 at its ends. A symbol merged into its left neighbour is
// dead.
typedef struct Symbol {
    int32_t id, previous, next;
} Symbol;

#define SYMBOL_DEAD (-2) // as an id

typedef struct Candidate {
    int32_t rank, position, id; // `id`: what the symbols at `position` and behind it merge into
} Candidate;

// What one call of tokenizer_encode works with.
typedef struct Encoding {
    const Tokenizer *t;
    int32_t **ids, *count, *capacity;
    Symbol *symbol;
    Candidate *heap;
    int32_t heap_count, room; // `room` symbols and 3 * room candidates: n - 1 at first and two a merge
    char *normal;
} Encoding;

static Status push_id(Encoding *e, int32_t id) {
    if (*e->count == *e->capacity) {
        int32_t capacity = *e->capacity < 64 ? 128 : 2 * *e->capacity;
        int32_t *grown = *e->capacity > INT32_MAX / 2 ? NULL : realloc(*e->ids, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return no_memory();
        *e->ids = grown;
        *e->capacity = capacity;
    }
    (*e->ids)[(*e->count)++] = id;
    return STATUS_OK;
}

static bool candidate_before(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_push(Encoding *e, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const Merge *merge = merge_find(e->t, e->symbol[left].id, e->symbol[right].id);
    if (merge == NULL) return;
    Candidate candidate = {merge->rank, left, merge->id};
    int32_t i = e->heap_count++;
    for (; i > 0 && candidate_before(&candidate, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = candidate;
}

static Candidate heap_pop(Encoding *e) {
    Candidate top = e->heap[0], last = e->heap[--e->heap_count];
    int32_t i = 0;
    for (int32_t child; (child = 2 * i + 1) < e->heap_count; i = child) {
        if (child + 1 < e->heap_count && candidate_before(&e->heap[child + 1], &e->heap[child])) child++;
        if (!candidate_before(&e->heap[child], &last)) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return top;
}

static Status reserve_symbols(Encoding *e, size_t bytes) {
    if (bytes <= (size_t)e->room) return STATUS_OK;
    size_t room = bytes < 256 ? 256 : bytes;
    Symbol *symbol = realloc(e->symbol, room * sizeof *symbol);
    if (symbol == NULL) return no_memory();
    e->symbol = symbol;
    Candidate *heap = realloc(e->heap, 3 * room * sizeof *heap);
    if (heap == NULL) return no_memory();
    e->heap = heap;
    e->room = (int32_t)room;
    return STATUS_OK;
}

static size_t char_bytes(const char *text, size_t bytes) {
    size_t n = 1;
    while (n < bytes && n < 4 && !char_starts(text[n])) n++;
    return n;
}

// Step 4 of the file's head, for one stretch of normalised text.
static Status encode_word(Encoding *e, const char *text, size_t bytes) {
    const Tokenizer *t = e->t;
    TRY(reserve_symbols(e, bytes));
    int32_t n = 0;
    for (size_t i = 0; i < bytes;) {
        size_t length = char_bytes(text + i, bytes - i);
        int32_t id = piece_find(t, text + i, length);
        if (id != NO_TOKEN) {
            e->symbol[n++].id = id;
        } else if (t->byte_fallback) {
            for (size_t k = 0; k < length; k++) e->symbol[n++].id = t->byte_id[(unsigned char)text[i + k]];
        } else if (n == 0 || e->symbol[n - 1].id != t->unknown) { // fuse_unk: a run of unknown characters is one token
            e->symbol[n++].id = t->unknown;
        }
        i += length;
    }
    e->heap_count = 0;
    for (int32_t i = 0; i < n; i++) {
        e->symbol[i].previous = i - 1;
        e->symbol[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) heap_push(e, i, i + 1);
    while (e->heap_count > 0) {
        Candidate top = heap_pop(e);
        Symbol *left = &e->symbol[top.position];
        if (left->id == SYMBOL_DEAD || left->next < 0) continue;
        Symbol *right = &e->symbol[left->next];
        const Merge *merge = merge_find(t, left->id, right->id);
        if (merge == NULL || merge->id != top.id) continue; // one of the two has been merged otherwise since
        left->id = top.id;
        right->id = SYMBOL_DEAD;
        left->next = right->next;
        if (left->next >= 0) e->symbol[left->next].previous = top.position;
        heap_push(e, left->previous, top.position);
        heap_push(e, top.position, left->next);
    }
    for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = e->symbol[i].next) TRY(push_id(e, e->symbol[i].id));
    return STATUS_OK;
}

static bool is_mark(const char *text, size_t bytes) {
    return bytes >= SPACE_MARK_BYTES && memcmp(text, space_mark, SPACE_MARK_BYTES) == 0;
}

// Merges normalised text word by word: a run of "▁" and what follows up to the next. Nothing merges across their
// borders, since no piece has "▁" behind another character; a run of unknown characters, which is one token, can cross
// none either
// ("▁" being a piece).
static Status encode_words(Encoding *e, const char *text, size_t bytes) {
    if (!e->t->mark_starts_word) return encode_word(e, text, bytes);
    for (size_t from = 0; from < bytes;) {
        size_t to = from;
        while (is_mark(text + to, bytes - to)) to += SPACE_MARK_BYTES;
        while (to < bytes && !is_mark(text + to, bytes - to)) to++;
        TRY(encode_word(e, text + from, to - from));
        from = to;
    }
    return STATUS_OK;
}

// Steps 2 to 4, for the text between two control tokens.
static Status encode_piece(Encoding *e, const char *text, size_t bytes) {
    const Cutter *cutter = &e->t->normalized;
    size_t length = normalize(text, bytes, e->normal);
    for (size_t from = 0, at; from < length;) {
        int32_t found = cutter_next(cutter, e->normal, from, length, &at);
        TRY(encode_words(e, e->normal + from, at - from));
        if (found < 0) break;
        TRY(push_id(e, cutter->id[found]));
        from = at + (size_t)cutter->bytes[found];
    }
    return STATUS_OK;
}

static Status encode_text(Encoding *e, const char *text, size_t bytes) {
    const Cutter *cutter = &e->t->raw;
    for (size_t from = 0, at; from < bytes;) {
        int32_t found = cutter_next(cutter, text, from, bytes, &at);
        TRY(encode_piece(e, text + from, at - from));
        if (found < 0) break;
        TRY(push_id(e, cutter->id[found]));
        from = at + (size_t)cutter->bytes[found];
    }
    return STATUS_OK;
}

Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, bool add_bos, int32_t **ids,
                        int32_t *count, int32_t *capacity) {
    if (bytes > TEXT_BYTES_MAX) return error_set(STATUS_DATA, "a text of %zu MiB is too long to tokenise", bytes >> 20);
    Encoding e = {.t = tokenizer, .ids = ids, .count = count, .capacity = capacity, .normal = malloc(3 * (bytes + 1))};
    Status status = e.normal == NULL ? no_memory() : STATUS_OK;
    if (status == STATUS_OK && add_bos && tokenizer->bos != NO_TOKEN) status = push_id(&e, tokenizer->bos);
    if (status == STATUS_OK) status = encode_text(&e, text, bytes);
    free(e.normal);
    free(e.symbol);
    free(e.heap);
    return status;
}

// ---- decoding ----

// A run of byte pieces: its text when it is well-formed as a whole, else one U+FFFD a byte (the ByteFallback decoder).
static size_t put_bytes(const unsigned char *run, size_t bytes, char *to) {
    bool valid = true;
    for (size_t i = 0, length; i < bytes && valid; i += length) {
        length = utf8_length(run + i, bytes - i);
        valid = length > 0;
    }
    if (valid) {
        memcpy(to, run, bytes);
        return bytes;
    }
    for (size_t i = 0; i < bytes; i++) memcpy(to + 3 * i, replacement, 3);
    return 3 * bytes;
}

Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int32_t count, bool skip_special, char **out) {
    *out = NULL;
    size_t room = 1;
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->count) continue;
        room += tokenizer->token[ids[i]].byte >= 0 ? 3 : (size_t)tokenizer->token[ids[i]].bytes + 1;
    }
    char *text = malloc(room);
    unsigned char *run = malloc((size_t)count + 1);
    if (text == NULL || run == NULL) {
        free(text);
        free(run);
        return no_memory();
    }
    size_t length = 0, run_bytes = 0;
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->count) continue; // embeddings may be padded beyond the vocabulary
        const Token *token = &tokenizer->token[ids[i]];
        if (skip_special && token->special) continue;
        if (token->byte >= 0) {
            run[run_bytes++] = (unsigned char)token->byte;
            continue;
        }
        length += put_bytes(run, run_bytes, text + length);
        run_bytes = 0;
        if (token->normalized) text[length++] = ' '; // the text it was found by, see step 3
        for (int32_t k = 0; k < token->bytes; k++) {
            if (is_mark(token->text + k, (size_t)(token->bytes - k))) {
                text[length++] = ' ';
                k += SPACE_MARK_BYTES - 1;
            } else {
                text[length++] = token->text[k];
            }
        }
    }
    length += put_bytes(run, run_bytes, text + length);
    free(run);
    text[length] = '\0';
    if (text[0] == ' ') memmove(text, text + 1, length); // the space that encoding put in front
    *out = text;
    return STATUS_OK;
}

// ---- opening ----

static uint64_t vocabulary_hash(const Tokenizer *t, const SentencePiece *model) {
    uint64_t hash = hash_bytes(0, &t->count, sizeof t->count);
    for (int32_t id = 0; id < t->count; id++) {
        const Token *token = &t->token[id];
        unsigned char flags[3] = {token->added, token->special, token->normalized};
        hash = hash_bytes(hash, token->text == NULL ? "" : token->text, (size_t)token->bytes + (token->text != NULL));
        hash = hash_bytes(hash, flags, sizeof flags);
        float score = id < t->model_count ? sentencepiece_score(model, id) : 0.0f;
        hash = hash_bytes(hash, &score, sizeof score);
    }
    int32_t rest[3] = {t->bos, t->eos, t->adds_bos};
    return hash_bytes(hash, rest, sizeof rest);
}

static Status build(Tokenizer *t, const SentencePiece *model, const char *dir, const char *path) {
    t->model_count = t->count = sentencepiece_count(model);
    if (t->count <= 0 || t->count > VOCAB_MAX)
        return error_set(STATUS_DATA, "%s: has %d pieces; supported are 1 to %d", path, t->count, VOCAB_MAX);
    if (!sentencepiece_merges_pairs(model))
        return error_set(STATUS_DATA, "%s: is not a BPE model; supported are Llama's tokenizers (SentencePiece BPE)",
                         path);
    if (!sentencepiece_keeps_text(model))
        return error_set(STATUS_DATA,
                         "%s: changes text before it is tokenised; supported are Llama's tokenizers (identity "
                         "normaliser, dummy prefix, extra spaces kept)",
                         path);
    TRY(MEMORY_ALLOC(t->token, t->count, "the tokenizer"));
    t->pieces.mask = table_mask((size_t)t->count);
    TRY(MEMORY_ALLOC(t->pieces.id, (size_t)t->pieces.mask + 1, "the tokenizer"));
    for (size_t i = 0; i <= t->pieces.mask; i++) t->pieces.id[i] = NO_TOKEN;
    TRY(read_pieces(t, model, path));
    TRY(build_merges(t, model));
    TRY(read_configs(t, dir, model));
    TRY(cutter_build(&t->raw, t, false));
    TRY(cutter_build(&t->normalized, t, true));
    t->hash = vocabulary_hash(t, model);
    return STATUS_OK;
}

Status tokenizer_open(Tokenizer **out, const char *model_dir) {
    *out = NULL;
    char path[PATH_MAX], other[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer.model", model_dir) >= sizeof path ||
        (size_t)snprintf(other, sizeof other, "%s/tokenizer.json", model_dir) >= sizeof other)
        return error_set(STATUS_DATA, "%s: the path is too long", model_dir);
    if (!file_exists(path) && file_exists(other))
        return error_set(STATUS_DATA,
                         "%s: not there, only tokenizer.json, which is not supported; take the tokenizer.model that "
                         "belongs to it",
                         path);
    char *bytes;
    size_t size;
    TRY(file_read(path, MODEL_BYTES_MAX, &bytes, &size));
    SentencePiece *model = sentencepiece_open(bytes, size);
    free(bytes);
    if (model == NULL) return error_set(STATUS_DATA, "%s: is not a SentencePiece model", path);
    Tokenizer *t = calloc(1, sizeof *t);
    Status status = t == NULL ? no_memory() : build(t, model, model_dir, path);
    sentencepiece_close(model);
    if (status != STATUS_OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return STATUS_OK;
}

void tokenizer_close(Tokenizer *tokenizer) {
    if (tokenizer == NULL) return;
    for (int32_t id = 0; id < tokenizer->count && tokenizer->token != NULL; id++) free(tokenizer->token[id].text);
    cutter_free(&tokenizer->raw);
    cutter_free(&tokenizer->normalized);
    free(tokenizer->token);
    free(tokenizer->pieces.id);
    free(tokenizer->merge);
    free(tokenizer);
}

int32_t tokenizer_vocab(const Tokenizer *tokenizer) {
    return tokenizer->count;
}

int32_t tokenizer_bos(const Tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tokenizer_eos(const Tokenizer *tokenizer) {
    return tokenizer->eos;
}

const char *tokenizer_eos_text(const Tokenizer *tokenizer) {
    return tokenizer->token[tokenizer->eos].text;
}

const char *tokenizer_bos_text(const Tokenizer *tokenizer) {
    return tokenizer->bos == NO_TOKEN ? "" : tokenizer->token[tokenizer->bos].text;
}

bool tokenizer_adds_bos(const Tokenizer *tokenizer) {
    return tokenizer->adds_bos;
}

uint64_t tokenizer_hash(const Tokenizer *tokenizer) {
    return tokenizer->hash;
}
