// A tokenizer.model of Llama's family (SentencePiece, byte pairs) as the tokenizer.json that transformers made of such
// models (legacy = true, as TinyLlama ships it): "▁" is put before each piece of text between control tokens, spaces
// become "▁", and the merges are those of SentencePieceExtractor. Where SentencePiece's own encoding differs, the
// tokenizer.json is followed. Reading the file is io/sentencepiece.cc's.
#include "io/files.h"
#include "io/sentencepiece.h"
#include "io/tokenizer_parts.h"
#include "io/unicode.h"
#include "src/base/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES_MAX ((size_t)256 << 20)
#define SPACE_MARK      "\xE2\x96\x81" // "▁", U+2581

// A merge before it has its rank. The order is by score, then by piece, then by the ids of its two parts.
typedef struct RankedMerge {
    float score;
    int32_t id, left, right;
} RankedMerge;

typedef struct RankedMerges {
    RankedMerge *v;
    size_t count, capacity;
} RankedMerges;

static int compare_merges(const void *a, const void *b) {
    const RankedMerge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

// Every way to part a piece into two.
static Status add_merges(const Vocabulary *pieces, int32_t id, float score, RankedMerges *list) {
    const char *text = pieces->token[id].text;
    for (uint32_t cut = 1; cut < pieces->token[id].bytes; cut++) {
        if (((unsigned char)text[cut] & 0xC0) == 0x80) continue;
        const int32_t left = vocabulary_find(pieces, text, cut);
        const int32_t right = vocabulary_find(pieces, text + cut, pieces->token[id].bytes - cut);
        if (left == NO_TOKEN || right == NO_TOKEN) continue;
        if (list->count == list->capacity) {
            const size_t capacity = 2 * list->capacity + 65536;
            RankedMerge *grown = realloc(list->v, capacity * sizeof *grown);
            if (grown == NULL) return error_set(STATUS_FAILED, "not enough memory for the tokenizer's merges");
            list->v = grown;
            list->capacity = capacity;
        }
        list->v[list->count++] = (RankedMerge){score, id, left, right};
    }
    return STATUS_OK;
}

static Status build_merges(Bpe *bpe, const SentencePiece *model) {
    RankedMerges list = {0};
    Status status = STATUS_OK;
    for (int32_t id = 0; id < bpe->words.count && status == STATUS_OK; id++)
        if (bpe->words.token[id].text != NULL)
            status = add_merges(&bpe->words, id, sentencepiece_score(model, id), &list);
    if (status == STATUS_OK) status = merge_table_init(&bpe->merges, list.count);
    if (status == STATUS_OK && list.count > 0) qsort(list.v, list.count, sizeof *list.v, compare_merges);
    for (size_t i = 0; i < list.count && status == STATUS_OK; i++)
        merge_table_put(&bpe->merges, list.v[i].left, list.v[i].right, (int32_t)i, list.v[i].id);
    free(list.v);
    return status;
}

static Status check_piece(const SentencePiece *model, int32_t id, const char *path) {
    const char *text = sentencepiece_text(model, id);
    const size_t bytes = strlen(text);
    unsigned value;
    if (bytes == 0 || bytes > TOKEN_BYTES_MAX)
        return error_set(STATUS_DATA, "%s: piece %d has %zu bytes; the file is damaged", path, id, bytes);
    if (unicode_valid(text, bytes) != bytes)
        return error_set(STATUS_DATA, "%s: piece %d is no UTF-8; the file is damaged", path, id);
    if (sentencepiece_kind(model, id) == PIECE_UNUSED)
        return error_set(STATUS_DATA, "%s: piece %d (\"%s\") is marked unused; such models are not supported", path, id,
                         text);
    if (!isfinite(sentencepiece_score(model, id))) // merges are sorted by it
        return error_set(STATUS_DATA, "%s: piece %d (\"%s\") has a score that is no number; the file is damaged", path,
                         id, text);
    if (sentencepiece_kind(model, id) == PIECE_BYTE && sscanf(text, "<0x%2X>", &value) != 1)
        return error_set(STATUS_DATA, "%s: byte piece %d is \"%s\", not <0x00> to <0xFF>", path, id, text);
    return STATUS_OK;
}

// Control, unknown and user-defined pieces are added tokens, as transformers converts them: SentencePiece numbers its
// special pieces first and its byte pieces next, so an ordinary piece that stands before the last of these is
// user-defined.
static Status read_pieces(Tokenizer *t, const SentencePiece *model, const char *path) {
    int32_t last_byte = NO_TOKEN;
    int bytes_known = 0;
    for (int32_t id = 0; id < t->model_count; id++) {
        const char *text = sentencepiece_text(model, id);
        const PieceKind kind = sentencepiece_kind(model, id);
        unsigned value;
        TRY(check_piece(model, id, path));
        TRY(vocabulary_add(&t->names, id, text, strlen(text)));
        if (kind == PIECE_UNKNOWN) t->bpe.unknown = id;
        if (kind != PIECE_BYTE || sscanf(text, "<0x%2X>", &value) != 1) continue;
        bytes_known += t->bpe.byte_symbol[value] == NO_TOKEN;
        t->bpe.byte_symbol[value] = last_byte = id;
    }
    t->bpe.byte_fallback = bytes_known == 256;
    t->bpe.fuse_unknown = true;
    for (int32_t id = 0; id < t->model_count; id++) {
        const PieceKind kind = sentencepiece_kind(model, id);
        const char *text = sentencepiece_text(model, id);
        const bool special = kind == PIECE_CONTROL || kind == PIECE_UNKNOWN;
        if (special || (kind == PIECE_NORMAL && id < last_byte))
            TRY(tokenizer_add(t, id, text, (TokenFlags){.special = special}, path));
        else if (kind == PIECE_NORMAL)
            TRY(vocabulary_add(&t->bpe.words, id, text, strlen(text)));
    }
    return STATUS_OK;
}

static Status set_steps(Tokenizer *t) {
    NormalizerStep *step;
    DecoderStep *decoder;
    TRY(normalizer_add(&t->normalizer, NORMALIZE_PREPEND, &step));
    TRY(text_buffer_add(&step->content, SPACE_MARK, strlen(SPACE_MARK)));
    TRY(normalizer_add(&t->normalizer, NORMALIZE_REPLACE, &step));
    TRY(pattern_open_text(&step->pattern, " ", 1));
    TRY(text_buffer_add(&step->content, SPACE_MARK, strlen(SPACE_MARK)));
    TRY(detokenizer_add(&t->detokenizer, DECODE_REPLACE, &decoder));
    TRY(pattern_open_text(&decoder->pattern, SPACE_MARK, strlen(SPACE_MARK)));
    TRY(text_buffer_add(&decoder->content, " ", 1));
    TRY(detokenizer_add(&t->detokenizer, DECODE_BYTE_FALLBACK, &decoder));
    TRY(detokenizer_add(&t->detokenizer, DECODE_FUSE, &decoder));
    TRY(detokenizer_add(&t->detokenizer, DECODE_STRIP, &decoder));
    decoder->left = 1;
    return text_buffer_add(&decoder->content, " ", 1);
}

static Status build(Tokenizer *t, const SentencePiece *model, const char *path) {
    t->model_count = sentencepiece_count(model);
    if (t->model_count <= 0 || t->model_count > VOCAB_MAX)
        return error_set(STATUS_DATA, "%s: has %d pieces; supported are 1 to %d", path, t->model_count, VOCAB_MAX);
    if (!sentencepiece_merges_pairs(model))
        return error_set(STATUS_DATA, "%s: is not a BPE model; supported are Llama's tokenizers (SentencePiece BPE)",
                         path);
    if (!sentencepiece_keeps_text(model))
        return error_set(STATUS_DATA,
                         "%s: changes text before it is tokenised; supported are Llama's tokenizers (identity "
                         "normaliser, dummy prefix, extra spaces kept)",
                         path);
    TRY(vocabulary_init(&t->names, (size_t)t->model_count));
    TRY(vocabulary_init(&t->bpe.words, (size_t)t->model_count));
    TRY(read_pieces(t, model, path));
    TRY(build_merges(&t->bpe, model));
    t->bos = sentencepiece_bos(model);
    t->eos = sentencepiece_eos(model);
    return set_steps(t);
}

Status tokenizer_read_spm(Tokenizer *t, const char *path) {
    char *bytes;
    size_t size;
    TRY(file_read(path, MODEL_BYTES_MAX, &bytes, &size));
    t->hash = hash_bytes(0, bytes, size);
    SentencePiece *model = sentencepiece_open(bytes, size);
    free(bytes);
    if (model == NULL) return error_set(STATUS_DATA, "%s: is not a SentencePiece model", path);
    Status status = build(t, model, path);
    sentencepiece_close(model);
    return status;
}
