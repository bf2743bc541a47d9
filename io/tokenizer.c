// Text to ids and back, in the order of Hugging Face's tokenizers:
//   1. added tokens are cut out of the raw text, the leftmost and longest first;
//   2. each piece of text between them is normalised, and added tokens marked "normalized" are cut out of the result;
//   3. what is left is cut into words (io/pretokenizer.c), and each is merged (io/bpe.c).
// The parts come from io/tokenizer_json.c or io/tokenizer_spm.c; which text is tokenised how is src/data/dataset's.
#include "io/tokenizer.h"
#include "io/files.h"
#include "io/tokenizer_parts.h"
#include "io/unicode.h"
#include "src/base/hash.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Workspace {
    Workspace *next;
    PatternScratch *patterns;
    BpeScratch *words;
    TextBuffer repaired, normal[2], steps[PRETOKENIZER_STEPS_MAX];
};

// Workspaces that no thread uses at the moment: a call takes one and gives it back, so that words stay remembered.
typedef struct Pool {
    pthread_mutex_t mutex;
    Workspace *first;
} Pool;

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory for the tokenizer");
}

// ---- workspaces ----

static void workspace_free(Workspace *w) {
    if (w == NULL) return;
    pattern_scratch_close(w->patterns);
    bpe_scratch_close(w->words);
    text_buffer_free(&w->repaired);
    for (int i = 0; i < 2; i++) text_buffer_free(&w->normal[i]);
    for (int i = 0; i < PRETOKENIZER_STEPS_MAX; i++) text_buffer_free(&w->steps[i]);
    free(w);
}

static Status workspace_take(const Tokenizer *t, Workspace **out) {
    pthread_mutex_lock(&t->pool->mutex);
    Workspace *w = t->pool->first;
    if (w != NULL) t->pool->first = w->next;
    pthread_mutex_unlock(&t->pool->mutex);
    *out = w;
    if (w != NULL) return STATUS_OK;
    w = calloc(1, sizeof *w);
    Status status = w == NULL ? no_memory() : pattern_scratch_open(&w->patterns);
    if (status == STATUS_OK) status = bpe_scratch_open(&w->words);
    if (status == STATUS_OK)
        *out = w;
    else
        workspace_free(w);
    return status;
}

static void workspace_give_back(const Tokenizer *t, Workspace *w) {
    pthread_mutex_lock(&t->pool->mutex);
    w->next = t->pool->first;
    t->pool->first = w;
    pthread_mutex_unlock(&t->pool->mutex);
}

// ---- added tokens ----

TokenFlags tokenizer_flags(const Tokenizer *t, int32_t id) {
    return id < t->flag_room ? t->flags[id] : (TokenFlags){0};
}

static Status set_flags(Tokenizer *t, int32_t id, TokenFlags flags) {
    if (id >= t->flag_room) {
        const int32_t room = (id > t->names.count ? id : t->names.count) + 256;
        TokenFlags *grown = realloc(t->flags, (size_t)room * sizeof *grown);
        if (grown == NULL) return no_memory();
        memset(grown + t->flag_room, 0, (size_t)(room - t->flag_room) * sizeof *grown);
        t->flags = grown;
        t->flag_room = room;
    }
    flags.added = true;
    t->flags[id] = flags;
    return STATUS_OK;
}

Status tokenizer_add(Tokenizer *t, int64_t id, const char *text, TokenFlags flags, const char *place) {
    if (text == NULL || text[0] == '\0' || strlen(text) > TOKEN_BYTES_MAX)
        return error_set(STATUS_DATA, "%s: added token %lld has no usable text", place, (long long)id);
    if (id < 0 || id >= t->model_count + ADDED_IDS_MAX)
        return error_set(STATUS_DATA, "%s: added token \"%.80s\" has the id %lld; ids are 0 to %d", place, text,
                         (long long)id, t->model_count + ADDED_IDS_MAX - 1);
    const char *there = vocabulary_has(&t->names, id) ? t->names.token[id].text : NULL;
    if (there != NULL && strcmp(there, text) != 0)
        return error_set(STATUS_DATA, "%s: added token \"%.80s\" has the id %lld, which is already \"%.80s\"", place,
                         text, (long long)id, there);
    const int32_t other = there == NULL ? vocabulary_find(&t->names, text, strlen(text)) : NO_TOKEN;
    if (other != NO_TOKEN)
        return error_set(STATUS_DATA, "%s: added token \"%.80s\" has the id %lld, but is token %d already", place, text,
                         (long long)id, other);
    if (there == NULL && t->from_json && id != t->names.count)
        return error_set(STATUS_DATA, "%s: added token \"%.80s\" has the id %lld, but its place gives it %d", place,
                         text, (long long)id, t->names.count);
    if (there == NULL) TRY(vocabulary_add(&t->names, (int32_t)id, text, strlen(text)));
    return set_flags(t, (int32_t)id, flags);
}

// Enters an added token where it is looked for. One that normalisation changes is heard as it is then, too.
static Status enter_token(Tokenizer *t, Workspace *w, int32_t id) {
    const char *text = t->names.token[id].text;
    size_t bytes = t->names.token[id].bytes;
    if (!t->flags[id].normalized) return token_trie_add(&t->raw, text, bytes, id);
    TRY(normalizer_run(&t->normalizer, w->patterns, w->normal, text, bytes, &text, &bytes));
    if (bytes != t->names.token[id].bytes || memcmp(text, t->names.token[id].text, bytes) != 0)
        TRY(vocabulary_add(&t->heard, id, text, bytes));
    return token_trie_add(&t->normalized, text, bytes, id);
}

static Status enter_tokens(Tokenizer *t) {
    Workspace *w;
    bool single = false;
    TRY(vocabulary_init(&t->heard, 0));
    TRY(workspace_take(t, &w));
    Status status = STATUS_OK;
    for (int32_t id = 0; id < t->names.count && id < t->flag_room && status == STATUS_OK; id++) {
        if (!t->flags[id].added) continue;
        single = single || t->flags[id].single_word;
        status = enter_token(t, w, id);
    }
    workspace_give_back(t, w);
    return status == STATUS_OK && single ? pattern_open_regex(&t->word, "\\w", "added_tokens") : status;
}

// ---- encoding ----

// What one call of tokenizer_encode works with.
typedef struct Encoding {
    const Tokenizer *t;
    Workspace *w;
    Ids ids;
} Encoding;

static Status is_word(const Encoding *e, const char *character, size_t bytes, bool *out) {
    PatternSearch search = pattern_search(e->t->word, e->w->patterns, character, bytes);
    return pattern_next(&search, out);
}

// Whether text[start, end) stands between characters of no word.
static Status stands_alone(const Encoding *e, const char *text, size_t bytes, size_t start, size_t end, bool *out) {
    bool before = false, behind = false;
    size_t first = start;
    while (first > 0 && ((unsigned char)text[--first] & 0xC0) == 0x80)
        ;
    if (start > 0) TRY(is_word(e, text + first, start - first, &before));
    if (end < bytes) TRY(is_word(e, text + end, unicode_length(text[end]), &behind));
    *out = !before && !behind;
    return STATUS_OK;
}

typedef Status (*EncodePiece)(Encoding *e, const char *text, size_t bytes, bool first);

// Cuts the trie's tokens out of the text; `encode` takes what stands between them.
static Status cut_tokens(Encoding *e, const TokenTrie *trie, const char *text, size_t bytes, bool first,
                         EncodePiece encode) {
    size_t done = 0, at = 0, start, end;
    for (int32_t id; (id = token_trie_find(trie, text, at, bytes, &start, &end)) >= 0;) {
        const TokenFlags flags = e->t->flags[id];
        at = end;
        bool alone = true;
        if (flags.single_word) TRY(stands_alone(e, text, bytes, start, end, &alone));
        if (!alone) continue;
        if (flags.lstrip) start = unicode_spaces_before(text, start);
        if (flags.rstrip) end += unicode_spaces_behind(text + end, bytes - end);
        if (start > done) TRY(encode(e, text + done, start - done, first && done == 0));
        TRY(ids_add(&e->ids, &id, 1));
        done = end;
    }
    return done < bytes ? encode(e, text + done, bytes - done, first && done == 0) : STATUS_OK;
}

static Status encode_word(void *context, const char *word, size_t bytes) {
    Encoding *e = context;
    return bpe_encode(&e->t->bpe, e->w->words, word, bytes, &e->ids);
}

static Status encode_words(Encoding *e, const char *text, size_t bytes, bool first) {
    return pretokenizer_run(&e->t->pretokenizer, e->w->patterns, e->w->steps, text, bytes, first, encode_word, e);
}

static Status encode_raw(Encoding *e, const char *text, size_t bytes, bool first) {
    TRY(normalizer_run(&e->t->normalizer, e->w->patterns, e->w->normal, text, bytes, &text, &bytes));
    return cut_tokens(e, &e->t->normalized, text, bytes, first, encode_words);
}

// *text with U+FFFD in the place of each byte that is no UTF-8.
static Status repair(Workspace *w, const char **text, size_t *bytes) {
    size_t valid = unicode_valid(*text, *bytes);
    if (valid == *bytes) return STATUS_OK;
    w->repaired.bytes = 0;
    for (size_t i = 0; i < *bytes; i += valid + 1) {
        valid = unicode_valid(*text + i, *bytes - i);
        TRY(text_buffer_add(&w->repaired, *text + i, valid));
        if (i + valid < *bytes) TRY(text_buffer_add(&w->repaired, REPLACEMENT, REPLACEMENT_BYTES));
    }
    *text = w->repaired.text;
    *bytes = w->repaired.bytes;
    return STATUS_OK;
}

Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, bool plain, int32_t **ids,
                        int32_t *count, int32_t *capacity) {
    if (bytes > TEXT_BYTES_MAX) return error_set(STATUS_DATA, "a text of %zu MiB is too long to tokenise", bytes >> 20);
    Encoding e = {.t = tokenizer, .ids = {*ids, *count, *capacity}};
    TRY(workspace_take(tokenizer, &e.w));
    Status status = plain ? ids_add(&e.ids, tokenizer->prefix, tokenizer->prefix_count) : STATUS_OK;
    if (status == STATUS_OK) status = repair(e.w, &text, &bytes);
    if (status == STATUS_OK) status = cut_tokens(&e, &tokenizer->raw, text, bytes, true, encode_raw);
    workspace_give_back(tokenizer, e.w);
    *ids = e.ids.id;
    *count = e.ids.count;
    *capacity = e.ids.capacity;
    return status;
}

// ---- decoding ----

// A token's text for the detokenizer; `id` is one of the vocabulary.
static const char *spoken(const Tokenizer *t, int32_t id, size_t *bytes) {
    const Vocabulary *from = vocabulary_has(&t->heard, id) ? &t->heard : &t->names;
    *bytes = from->token[id].bytes;
    return from->token[id].text;
}

Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int32_t count, bool skip_special, char **out) {
    Texts texts = {0};
    Workspace *w;
    *out = NULL;
    TRY(workspace_take(tokenizer, &w));
    Status status = STATUS_OK;
    for (int32_t i = 0; i < count && status == STATUS_OK; i++) {
        if (!vocabulary_has(&tokenizer->names, ids[i])) continue; // embeddings may be padded beyond the vocabulary
        if (skip_special && tokenizer_flags(tokenizer, ids[i]).special) continue;
        size_t bytes;
        const char *text = spoken(tokenizer, ids[i], &bytes);
        status = texts_add(&texts, text, bytes);
    }
    if (status == STATUS_OK) status = detokenizer_run(&tokenizer->detokenizer, w->patterns, &texts, out);
    texts_free(&texts);
    workspace_give_back(tokenizer, w);
    return status;
}

const char *tokenizer_piece(const Tokenizer *tokenizer, int32_t id, size_t *bytes) {
    *bytes = 0;
    if (!vocabulary_has(&tokenizer->names, id)) return NULL;
    *bytes = tokenizer->names.token[id].bytes;
    return tokenizer->names.token[id].text;
}

Status tokenizer_piece_text(const Tokenizer *tokenizer, int32_t id, char **out, size_t *bytes) {
    TextBuffer made = {0};
    Workspace *w;
    *out = NULL;
    TRY(workspace_take(tokenizer, &w));
    Status status = STATUS_OK;
    if (vocabulary_has(&tokenizer->names, id)) {
        size_t length;
        const char *text = spoken(tokenizer, id, &length);
        status = detokenizer_token(&tokenizer->detokenizer, w->patterns, text, length, &made);
    }
    *bytes = made.bytes;
    if (status == STATUS_OK) status = text_buffer_add(&made, "", 1);
    workspace_give_back(tokenizer, w);
    if (status == STATUS_OK)
        *out = made.text;
    else
        text_buffer_free(&made);
    return status;
}

bool tokenizer_is_added(const Tokenizer *tokenizer, int32_t id) {
    return vocabulary_has(&tokenizer->names, id) && tokenizer_flags(tokenizer, id).added;
}

// ---- opening ----

static Status find_file(const char *dir, char path[PATH_MAX], bool *json) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    for (int i = 0; i < 2; i++) {
        if ((size_t)snprintf(path, PATH_MAX, "%s/%s", dir, names[i]) >= PATH_MAX)
            return error_set(STATUS_DATA, "%s: the path is too long", dir);
        *json = i == 0;
        if (file_exists(path)) return STATUS_OK;
    }
    return error_set(STATUS_DATA,
                     "%s: has neither tokenizer.json nor tokenizer.model; AutoTokenizer of transformers writes a "
                     "tokenizer.json by save_pretrained",
                     dir);
}

static Status make_pool(Tokenizer *t) {
    t->pool = calloc(1, sizeof *t->pool);
    if (t->pool == NULL) return no_memory();
    pthread_mutex_init(&t->pool->mutex, NULL);
    return STATUS_OK;
}

static uint64_t hash_settings(const Tokenizer *t) {
    uint64_t hash = t->hash;
    for (int32_t id = 0; id < t->names.count && id < t->flag_room; id++) {
        if (!t->flags[id].added) continue;
        hash = hash_bytes(hash, t->names.token[id].text, t->names.token[id].bytes);
        hash = hash_bytes(hash, &t->flags[id], sizeof t->flags[id]);
    }
    const int32_t rest[4] = {t->bos, t->eos, t->prefix_count, t->prefix[0]};
    return hash_bytes(hash, rest, sizeof rest);
}

static Status build(Tokenizer *t, const char *dir) {
    char path[PATH_MAX];
    for (int byte = 0; byte < 256; byte++) t->bpe.byte_symbol[byte] = NO_TOKEN;
    t->bpe.unknown = t->bos = t->eos = NO_TOKEN;
    token_trie_init(&t->raw);
    token_trie_init(&t->normalized);
    TRY(find_file(dir, path, &t->from_json));
    TRY(make_pool(t));
    TRY(t->from_json ? tokenizer_read_json(t, path) : tokenizer_read_spm(t, path));
    TRY(tokenizer_read_config(t, dir));
    TRY(bpe_finish(&t->bpe));
    TRY(enter_tokens(t));
    t->hash = hash_settings(t);
    return STATUS_OK;
}

Status tokenizer_open(Tokenizer **out, const char *model_dir) {
    *out = NULL;
    Tokenizer *t = calloc(1, sizeof *t);
    Status status = t == NULL ? no_memory() : build(t, model_dir);
    if (status == STATUS_OK)
        *out = t;
    else
        tokenizer_close(t);
    return status;
}

static void close_pool(Pool *pool) {
    if (pool == NULL) return;
    for (Workspace *w = pool->first, *next; w != NULL; w = next) {
        next = w->next;
        workspace_free(w);
    }
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

void tokenizer_close(Tokenizer *tokenizer) {
    if (tokenizer == NULL) return;
    close_pool(tokenizer->pool);
    vocabulary_free(&tokenizer->names);
    vocabulary_free(&tokenizer->heard);
    normalizer_free(&tokenizer->normalizer);
    pretokenizer_free(&tokenizer->pretokenizer);
    bpe_free(&tokenizer->bpe);
    detokenizer_free(&tokenizer->detokenizer);
    token_trie_free(&tokenizer->raw);
    token_trie_free(&tokenizer->normalized);
    pattern_close(tokenizer->word);
    free(tokenizer->flags);
    free(tokenizer);
}

int32_t tokenizer_vocab(const Tokenizer *tokenizer) {
    return tokenizer->names.count;
}

int32_t tokenizer_bos(const Tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tokenizer_eos(const Tokenizer *tokenizer) {
    return tokenizer->eos;
}

const char *tokenizer_eos_text(const Tokenizer *tokenizer) {
    return tokenizer->names.token[tokenizer->eos].text;
}

const char *tokenizer_bos_text(const Tokenizer *tokenizer) {
    return tokenizer->bos == NO_TOKEN ? "" : tokenizer->names.token[tokenizer->bos].text;
}

uint64_t tokenizer_hash(const Tokenizer *tokenizer) {
    return tokenizer->hash;
}
