// Reads tokenizer.json, the file of Hugging Face's tokenizers library: a vocabulary with merges (BPE), added tokens,
// and the steps around them. Every part is checked against what is known; the rest is refused with its name and place,
// which is written as a path into the JSON. What the parts do is in io/normalizer.c, io/pretokenizer.c, io/bpe.c and
// io/detokenizer.c; the two large tables come from io/tokenizer_tables.cc.
#include "io/files.h"
#include "io/json_file.h"
#include "io/tokenizer_parts.h"
#include "io/tokenizer_tables.h"
#include "io/unicode.h"
#include "src/base/hash.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)256 << 20)
#define NESTING_MAX    8 // sequences in sequences

// An object of the file and where it stands ("DIR/tokenizer.json: pre_tokenizer.pretokenizers[1]").
typedef struct Part {
    const json_t *json;
    const char *type;
    char place[PATH_MAX + 256];
    int depth;
} Part;

// ---- parts and their fields ----

static Status wrong(const Part *part, const char *field, const char *format, ...) __attribute__((format(printf, 3, 4)));
static Status wrong(const Part *part, const char *field, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    const bool part_itself = field[0] == '\0' || part->place[strlen(part->place) - 1] == ' ';
    return error_set(STATUS_DATA, "%s%s%s %s", part->place, part_itself ? "" : ".", field, text);
}

// Whether the part has no other fields than those of `known`, a list with blanks around each.
static Status check_fields(const Part *part, const char *known) {
    const char *key;
    json_t *value;
    char word[128];
    json_object_foreach((json_t *)part->json, key, value) {
        snprintf(word, sizeof word, " %s ", key);
        if (strlen(key) > 100 || strstr(known, word) == NULL)
            return wrong(part, key, "is not known; a tokenizer with it is not supported");
    }
    return STATUS_OK;
}

static Status get_bool(const Part *part, const char *name, bool missing, bool *out) {
    const json_t *value = json_object_get(part->json, name);
    *out = value == NULL || json_is_null(value) ? missing : json_is_true(value);
    if (value == NULL || json_is_null(value) || json_is_boolean(value)) return STATUS_OK;
    return wrong(part, name, "must be true or false");
}

static Status get_text(const Part *part, const char *name, const char **out) {
    *out = json_text(json_object_get(part->json, name));
    return *out != NULL ? STATUS_OK : wrong(part, name, "must be text");
}

static Status get_content(const Part *part, const char *name, TextBuffer *out) {
    const char *text;
    TRY(get_text(part, name, &text));
    return text_buffer_add(out, text, strlen(text));
}

// Text of one character.
static Status get_character(const Part *part, const char *name, TextBuffer *out) {
    TRY(get_content(part, name, out));
    return out->bytes > 0 && out->bytes == unicode_length(out->text[0]) ? STATUS_OK
                                                                        : wrong(part, name, "must be one character");
}

static Status get_pattern(const Part *part, Pattern **out) {
    const json_t *pattern = json_object_get(part->json, "pattern");
    const char *text = json_text(json_object_get(pattern, "String"));
    const char *regex = json_text(json_object_get(pattern, "Regex"));
    if (json_object_size(pattern) != 1 || (text == NULL && regex == NULL))
        return wrong(part, "pattern", "must be {\"String\": ...} or {\"Regex\": ...}");
    if (text != NULL) return pattern_open_text(out, text, strlen(text));
    char place[sizeof part->place + 16];
    snprintf(place, sizeof place, "%s.pattern", part->place);
    return pattern_open_regex(out, regex, place);
}

// The parts of a tokenizer, one after the other through sequences: `add` takes each that is none.
typedef Status (*AddPart)(Tokenizer *t, const Part *part);

static Status read_part(Tokenizer *t, Part *part, const char *list_name, AddPart add) {
    if (json_is_null(part->json)) return STATUS_OK;
    TRY(get_text(part, "type", &part->type));
    if (strcmp(part->type, "Sequence") != 0) return add(t, part);
    const json_t *list = json_object_get(part->json, list_name);
    char known[64];
    snprintf(known, sizeof known, " type %s ", list_name);
    TRY(check_fields(part, known));
    if (!json_is_array(list)) return wrong(part, list_name, "must be a list");
    if (part->depth == NESTING_MAX) return wrong(part, list_name, "is nested too deep");
    for (size_t i = 0; i < json_array_size(list); i++) {
        Part inner = {.json = json_array_get(list, i), .depth = part->depth + 1};
        snprintf(inner.place, sizeof inner.place, "%.*s.%s[%zu]", (int)sizeof inner.place - 64, part->place, list_name,
                 i);
        TRY(read_part(t, &inner, list_name, add));
    }
    return STATUS_OK;
}

static Status refuse_type(const Part *part, const char *known) {
    return wrong(part, "type", "is \"%.80s\", which is not supported; known are %s", part->type, known);
}

// ---- normalizer, pre_tokenizer ----

static Status add_normalizer(Tokenizer *t, const Part *part) {
    static const struct {
        const char *type, *fields;
        NormalizerKind kind;
    } known[] = {
        {"NFC", " type ", NORMALIZE_NFC},
        {"NFD", " type ", NORMALIZE_NFD},
        {"NFKC", " type ", NORMALIZE_NFKC},
        {"NFKD", " type ", NORMALIZE_NFKD},
        {"Prepend", " type prepend ", NORMALIZE_PREPEND},
        {"Replace", " type pattern content ", NORMALIZE_REPLACE},
        {"Strip", " type strip_left strip_right ", NORMALIZE_STRIP},
    };
    size_t i = 0;
    while (i < sizeof known / sizeof *known && strcmp(part->type, known[i].type) != 0) i++;
    if (i == sizeof known / sizeof *known)
        return refuse_type(part, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip and Sequence");
    NormalizerStep *step;
    TRY(check_fields(part, known[i].fields));
    TRY(normalizer_add(&t->normalizer, known[i].kind, &step));
    if (step->kind == NORMALIZE_PREPEND) return get_content(part, "prepend", &step->content);
    if (step->kind == NORMALIZE_REPLACE) {
        TRY(get_content(part, "content", &step->content));
        return get_pattern(part, &step->pattern);
    }
    if (step->kind != NORMALIZE_STRIP) return STATUS_OK;
    TRY(get_bool(part, "strip_left", false, &step->strip_left));
    return get_bool(part, "strip_right", false, &step->strip_right);
}

static Status read_split(const Part *part, PretokenizerStep *step) {
    static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                            "Contiguous"};
    const char *behavior;
    TRY(check_fields(part, " type pattern behavior invert "));
    TRY(get_text(part, "behavior", &behavior));
    int i = 0;
    while (i < 5 && strcmp(behavior, behaviors[i]) != 0) i++;
    if (i == 5) return wrong(part, "behavior", "is \"%.80s\", which is not known", behavior);
    step->behavior = (SplitBehavior)i;
    TRY(get_bool(part, "invert", false, &step->invert));
    return get_pattern(part, &step->pattern);
}

static Status read_byte_level(Tokenizer *t, const Part *part, PretokenizerStep *step) {
    bool prefix, regex;
    TRY(check_fields(part, " type add_prefix_space trim_offsets use_regex "));
    TRY(get_bool(part, "add_prefix_space", true, &prefix));
    TRY(get_bool(part, "use_regex", true, &regex));
    t->bpe.by_bytes = true;
    if (prefix) {
        step->prepend = PREPEND_ALWAYS;
        TRY(text_buffer_add(&step->prefix, " ", 1));
    }
    step->behavior = SPLIT_ISOLATED;
    if (!regex) return STATUS_OK;
    return pattern_open_regex(&step->pattern,
                              "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                              part->place);
}

static Status read_prepend_scheme(const Part *part, PrependScheme *out) {
    static const char *const schemes[] = {"never", "first", "always"};
    bool prefix_space;
    const json_t *value = json_object_get(part->json, "prepend_scheme");
    const char *scheme = value == NULL ? "always" : json_text(value);
    TRY(get_bool(part, "add_prefix_space", true, &prefix_space));
    int i = 0;
    while (i < 3 && (scheme == NULL || strcmp(scheme, schemes[i]) != 0)) i++;
    if (i == 3) return wrong(part, "prepend_scheme", "must be \"never\", \"first\" or \"always\"");
    *out = prefix_space || value != NULL ? (PrependScheme)i : PREPEND_NEVER; // the form of before prepend_scheme
    if (!prefix_space && *out != PREPEND_NEVER) return wrong(part, "add_prefix_space", "contradicts prepend_scheme");
    return STATUS_OK;
}

static Status read_metaspace(const Part *part, PretokenizerStep *step) {
    bool split;
    TRY(check_fields(part, " type replacement str_rep add_prefix_space prepend_scheme split "));
    TRY(get_character(part, "replacement", &step->space));
    TRY(get_content(part, "replacement", &step->prefix));
    TRY(read_prepend_scheme(part, &step->prepend));
    TRY(get_bool(part, "split", true, &split));
    step->behavior = SPLIT_MERGED_WITH_NEXT;
    return split ? pattern_open_text(&step->pattern, step->space.text, step->space.bytes) : STATUS_OK;
}

static Status add_pretokenizer(Tokenizer *t, const Part *part) {
    if (t->pretokenizer.count == PRETOKENIZER_STEPS_MAX) return wrong(part, "", "is one step too many");
    if (t->bpe.by_bytes)
        return wrong(part, "type", "is \"%.80s\" behind ByteLevel, which must be the last", part->type);
    PretokenizerStep *step = &t->pretokenizer.step[t->pretokenizer.count++];
    bool individual;
    if (strcmp(part->type, "Split") == 0) return read_split(part, step);
    if (strcmp(part->type, "ByteLevel") == 0) return read_byte_level(t, part, step);
    if (strcmp(part->type, "Metaspace") == 0) return read_metaspace(part, step);
    if (strcmp(part->type, "Digits") != 0) return refuse_type(part, "Split, ByteLevel, Digits, Metaspace and Sequence");
    TRY(check_fields(part, " type individual_digits "));
    TRY(get_bool(part, "individual_digits", false, &individual));
    step->behavior = SPLIT_ISOLATED;
    return pattern_open_regex(&step->pattern, individual ? "\\p{N}" : "\\p{N}+", part->place);
}

// ---- model ----

static Status read_vocabulary(Tokenizer *t, const TokenizerTables *tables, const char *path) {
    const int64_t limit = 2 * (int64_t)tables->vocabulary_count + ADDED_IDS_MAX;
    if (tables->vocabulary_count == 0) return error_set(STATUS_DATA, "%s: model.vocab is missing or empty", path);
    if (limit > VOCAB_MAX)
        return error_set(STATUS_DATA, "%s: model.vocab has more than %d tokens", path, VOCAB_MAX / 2);
    TRY(vocabulary_init(&t->names, tables->vocabulary_count));
    for (size_t i = 0; i < tables->vocabulary_count; i++) {
        const VocabularyEntry *entry = &tables->vocabulary[i];
        const int shown = entry->bytes < 80 ? (int)entry->bytes : 80;
        if (entry->bytes > TOKEN_BYTES_MAX || memchr(entry->text, '\0', entry->bytes) != NULL)
            return error_set(STATUS_DATA, "%s: model.vocab has a token of %zu bytes, which is no usable text", path,
                             entry->bytes);
        if (entry->id < 0 || entry->id >= limit)
            return error_set(STATUS_DATA, "%s: model.vocab: \"%.*s\" has the id %lld, which is beyond its %zu tokens",
                             path, shown, entry->text, (long long)entry->id, tables->vocabulary_count);
        if (vocabulary_has(&t->names, entry->id))
            return error_set(STATUS_DATA, "%s: model.vocab: \"%.*s\" and \"%.80s\" both have the id %lld", path, shown,
                             entry->text, t->names.token[entry->id].text, (long long)entry->id);
        TRY(vocabulary_add(&t->names, (int32_t)entry->id, entry->text, entry->bytes));
    }
    t->model_count = t->names.count;
    if (t->names.twice == NO_TOKEN) return STATUS_OK;
    return error_set(STATUS_DATA, "%s: model.vocab has \"%.80s\" twice", path, t->names.token[t->names.twice].text);
}

static Status no_token(const char *path, size_t index, const char *what, const char *text, size_t bytes) {
    return error_set(STATUS_DATA, "%s: model.merges[%zu]: %s \"%.*s\", which model.vocab does not have", path, index,
                     what, (int)(bytes < 80 ? bytes : 80), text);
}

static Status read_merges(Tokenizer *t, const TokenizerTables *tables, const char *path) {
    char joined[2 * TOKEN_BYTES_MAX];
    TRY(merge_table_init(&t->bpe.merges, tables->merge_count));
    for (size_t i = 0; i < tables->merge_count; i++) {
        const MergeEntry *merge = &tables->merges[i];
        const int32_t left = vocabulary_find(&t->names, merge->left, merge->left_bytes);
        const int32_t right = vocabulary_find(&t->names, merge->right, merge->right_bytes);
        if (left == NO_TOKEN) return no_token(path, i, "merges", merge->left, merge->left_bytes);
        if (right == NO_TOKEN) return no_token(path, i, "merges", merge->right, merge->right_bytes);
        const size_t bytes = merge->left_bytes + merge->right_bytes;
        memcpy(joined, merge->left, merge->left_bytes);
        memcpy(joined + merge->left_bytes, merge->right, merge->right_bytes);
        const int32_t id = vocabulary_find(&t->names, joined, bytes);
        if (id == NO_TOKEN) return no_token(path, i, "makes", joined, bytes);
        merge_table_put(&t->bpe.merges, left, right, (int32_t)i, id);
    }
    return STATUS_OK;
}

// By bytes: the tokens that are byte-level text, as their bytes; those of one byte, and for ignore_merges all.
static Status read_byte_words(Tokenizer *t) {
    char raw[TOKEN_BYTES_MAX];
    size_t length;
    if (t->bpe.ignore_merges) TRY(vocabulary_init(&t->bpe.words, (size_t)t->names.used));
    for (int32_t id = 0; id < t->names.count; id++) {
        const char *text = t->names.token[id].text;
        if (text == NULL || !byte_level_decode(text, t->names.token[id].bytes, raw, &length)) continue;
        if (length == 1) t->bpe.byte_symbol[(unsigned char)raw[0]] = id;
        if (t->bpe.ignore_merges) TRY(vocabulary_add(&t->bpe.words, id, raw, length));
    }
    return STATUS_OK;
}

static Status read_words(Tokenizer *t) {
    char name[8];
    TRY(vocabulary_init(&t->bpe.words, (size_t)t->names.used));
    for (int32_t id = 0; id < t->names.count; id++)
        if (t->names.token[id].text != NULL)
            TRY(vocabulary_add(&t->bpe.words, id, t->names.token[id].text, t->names.token[id].bytes));
    for (int byte = 0; byte < 256 && t->bpe.byte_fallback; byte++) {
        snprintf(name, sizeof name, "<0x%02X>", byte);
        t->bpe.byte_symbol[byte] = vocabulary_find(&t->names, name, 6);
    }
    return STATUS_OK;
}

static Status check_empty(const Part *part, const char *name) {
    const json_t *value = json_object_get(part->json, name);
    const char *text = json_text(value);
    if (value == NULL || json_is_null(value) || (text != NULL && text[0] == '\0')) return STATUS_OK;
    return wrong(part, name, "is not empty, which is not supported");
}

static Status read_model(Tokenizer *t, Part *part, const TokenizerTables *tables, const char *path) {
    const json_t *dropout = json_object_get(part->json, "dropout"), *unknown = json_object_get(part->json, "unk_token");
    TRY(get_text(part, "type", &part->type));
    if (strcmp(part->type, "BPE") != 0) return refuse_type(part, "BPE alone");
    TRY(check_fields(part,
                     " type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback "
                     "ignore_merges "));
    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return wrong(part, "dropout", "makes tokens by chance, which is not supported; set it to null");
    TRY(check_empty(part, "continuing_subword_prefix"));
    TRY(check_empty(part, "end_of_word_suffix"));
    TRY(get_bool(part, "fuse_unk", false, &t->bpe.fuse_unknown));
    TRY(get_bool(part, "byte_fallback", false, &t->bpe.byte_fallback));
    TRY(get_bool(part, "ignore_merges", false, &t->bpe.ignore_merges));
    if (tables->problem[0] != '\0') return error_set(STATUS_DATA, "%s: %s", path, tables->problem);
    TRY(read_vocabulary(t, tables, path));
    TRY(read_merges(t, tables, path));
    TRY(t->bpe.by_bytes ? read_byte_words(t) : read_words(t));
    if (unknown == NULL || json_is_null(unknown)) return STATUS_OK;
    const char *text;
    TRY(get_text(part, "unk_token", &text));
    if (t->bpe.by_bytes) return STATUS_OK; // a byte is never unknown to a vocabulary that has them all
    t->bpe.unknown = vocabulary_find(&t->names, text, strlen(text));
    return t->bpe.unknown != NO_TOKEN ? STATUS_OK : wrong(part, "unk_token", "is \"%.80s\", which is no token", text);
}

// ---- added_tokens ----

static Status read_added(Tokenizer *t, const Part *part) {
    TokenFlags flags = {0};
    const char *text;
    const json_t *id = json_object_get(part->json, "id");
    TRY(check_fields(part, " id content single_word lstrip rstrip normalized special "));
    TRY(get_text(part, "content", &text));
    TRY(get_bool(part, "single_word", false, &flags.single_word));
    TRY(get_bool(part, "lstrip", false, &flags.lstrip));
    TRY(get_bool(part, "rstrip", false, &flags.rstrip));
    TRY(get_bool(part, "normalized", false, &flags.normalized));
    TRY(get_bool(part, "special", false, &flags.special));
    if (!json_is_integer(id)) return wrong(part, "id", "must be an integer");
    return tokenizer_add(t, json_integer_value(id), text, flags, part->place);
}

static Status read_added_tokens(Tokenizer *t, const json_t *list, const char *path) {
    if (list != NULL && !json_is_array(list)) return error_set(STATUS_DATA, "%s: added_tokens must be a list", path);
    for (size_t i = 0; i < json_array_size(list); i++) {
        Part part = {.json = json_array_get(list, i)};
        snprintf(part.place, sizeof part.place, "%s: added_tokens[%zu]", path, i);
        TRY(read_added(t, &part));
    }
    return STATUS_OK;
}

// ---- post_processor, decoder ----

// The ids of a template's special token, behind those that are there.
static Status add_prefix(Tokenizer *t, const Part *part, const char *name) {
    const json_t *token = json_object_get(json_object_get(part->json, "special_tokens"), name);
    const json_t *ids = json_object_get(token, "ids");
    if (!json_is_array(ids)) return wrong(part, "special_tokens", "has no ids for \"%.80s\"", name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || !vocabulary_has(&t->names, json_integer_value(id)))
            return wrong(part, "special_tokens", "gives \"%.80s\" an id that is no token", name);
        if (t->prefix_count == PREFIX_MAX)
            return wrong(part, "single", "puts more than %d tokens before a text", PREFIX_MAX);
        t->prefix[t->prefix_count++] = (int32_t)json_integer_value(id);
    }
    return STATUS_OK;
}

static Status add_template(Tokenizer *t, const Part *part) {
    TRY(check_fields(part, " type single pair special_tokens "));
    const json_t *single = json_object_get(part->json, "single");
    if (!json_is_array(single)) return wrong(part, "single", "must be a list");
    int32_t later[PREFIX_MAX];
    const int count = t->prefix_count; // of the processors before this one, whose tokens stand behind
    memcpy(later, t->prefix, sizeof later);
    t->prefix_count = 0;
    bool text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *token = json_object_get(piece, "SpecialToken"), *sequence = json_object_get(piece, "Sequence");
        const char *id = json_text(json_object_get(token != NULL ? token : sequence, "id"));
        if (id == NULL || (sequence != NULL && (text || strcmp(id, "A") != 0)))
            return wrong(part, "single",
                         "must have {\"SpecialToken\": {\"id\"}} and once {\"Sequence\": {\"id\": \"A\"}}");
        if (text) return wrong(part, "single", "puts \"%.80s\" behind a text, which is not supported", id);
        if (sequence != NULL)
            text = true;
        else
            TRY(add_prefix(t, part, id));
    }
    if (!text) return wrong(part, "single", "has no {\"Sequence\": {\"id\": \"A\"}}");
    for (int i = 0; i < count; i++) {
        if (t->prefix_count == PREFIX_MAX)
            return wrong(part, "single", "puts more than %d tokens before a text", PREFIX_MAX);
        t->prefix[t->prefix_count++] = later[i];
    }
    return STATUS_OK;
}

static Status add_processor(Tokenizer *t, const Part *part) {
    if (strcmp(part->type, "ByteLevel") == 0) // about offsets, which nobody asks for
        return check_fields(part, " type add_prefix_space trim_offsets use_regex ");
    if (strcmp(part->type, "TemplateProcessing") == 0) return add_template(t, part);
    return refuse_type(part, "TemplateProcessing, ByteLevel and Sequence");
}

static Status get_count(const Part *part, const char *name, int *out) {
    const json_t *value = json_object_get(part->json, name);
    const json_int_t count = json_integer_value(value);
    *out = (int)count;
    return json_is_integer(value) && count >= 0 && count <= 65536 ? STATUS_OK : wrong(part, name, "must be 0 to 65536");
}

static Status read_metaspace_decoder(const Part *part, DecoderStep *step) {
    TextBuffer mark = {0};
    Status status = check_fields(part, " type replacement str_rep add_prefix_space prepend_scheme split ");
    if (status == STATUS_OK) status = get_character(part, "replacement", &mark);
    if (status == STATUS_OK) status = read_prepend_scheme(part, &step->prepend);
    if (status == STATUS_OK) status = pattern_open_text(&step->pattern, mark.text, mark.bytes);
    text_buffer_free(&mark);
    return status != STATUS_OK ? status : text_buffer_add(&step->content, " ", 1);
}

static Status add_decoder(Tokenizer *t, const Part *part) {
    static const struct {
        const char *type, *fields;
        DecoderKind kind;
    } known[] = {
        {"ByteLevel", " type add_prefix_space trim_offsets use_regex ", DECODE_BYTE_LEVEL},
        {"ByteFallback", " type ", DECODE_BYTE_FALLBACK},
        {"Fuse", " type ", DECODE_FUSE},
        {"Strip", " type content start stop ", DECODE_STRIP},
        {"Replace", " type pattern content ", DECODE_REPLACE},
        {"Metaspace", " type replacement str_rep add_prefix_space prepend_scheme split ", DECODE_METASPACE},
    };
    size_t i = 0;
    while (i < sizeof known / sizeof *known && strcmp(part->type, known[i].type) != 0) i++;
    if (i == sizeof known / sizeof *known)
        return refuse_type(part, "ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace and Sequence");
    if (t->detokenizer.count == PRETOKENIZER_STEPS_MAX) return wrong(part, "", "is one step too many");
    DecoderStep *step;
    TRY(check_fields(part, known[i].fields));
    TRY(detokenizer_add(&t->detokenizer, known[i].kind, &step));
    if (step->kind == DECODE_METASPACE) return read_metaspace_decoder(part, step);
    if (step->kind == DECODE_REPLACE) {
        TRY(get_content(part, "content", &step->content));
        return get_pattern(part, &step->pattern);
    }
    if (step->kind != DECODE_STRIP) return STATUS_OK;
    TRY(get_character(part, "content", &step->content));
    TRY(get_count(part, "start", &step->left));
    return get_count(part, "stop", &step->right);
}

// ---- the file ----

static Status read_list(Tokenizer *t, const json_t *root, const char *name, const char *list_name, AddPart add,
                        const char *path) {
    Part part = {.json = json_object_get(root, name)};
    if (part.json == NULL) return STATUS_OK;
    snprintf(part.place, sizeof part.place, "%s: %s", path, name);
    return read_part(t, &part, list_name, add);
}

static Status read_parts(Tokenizer *t, const json_t *root, const TokenizerTables *tables, const char *path) {
    Part whole = {.json = root}, model = {.json = json_object_get(root, "model")};
    snprintf(whole.place, sizeof whole.place, "%s: ", path);
    snprintf(model.place, sizeof model.place, "%s: model", path);
    // Padding and truncation are not for plain calls, which set their own.
    TRY(check_fields(&whole, " version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder "
                             "model "));
    if (!json_is_object(model.json)) return error_set(STATUS_DATA, "%s: has no model", path);
    TRY(read_list(t, root, "normalizer", "normalizers", add_normalizer, path));
    TRY(read_list(t, root, "pre_tokenizer", "pretokenizers", add_pretokenizer, path));
    TRY(read_model(t, &model, tables, path));
    TRY(read_added_tokens(t, json_object_get(root, "added_tokens"), path));
    TRY(read_list(t, root, "post_processor", "processors", add_processor, path));
    return read_list(t, root, "decoder", "decoders", add_decoder, path);
}

static Status read_tables(Tokenizer *t, const TokenizerTables *tables, const char *path) {
    json_error_t error;
    json_t *root = json_foreign_load(tables->rest, tables->rest_bytes, 0, &error);
    if (root == NULL) return error_set(STATUS_DATA, "%s: broken JSON outside the vocabulary: %s", path, error.text);
    Status status = read_parts(t, root, tables, path);
    json_decref(root);
    return status;
}

// Why a file is no JSON, which jansson can say with the line.
static Status tell_broken(const char *path) {
    json_t *root;
    TRY(json_file_object(path, FILE_BYTES_MAX, &root));
    json_decref(root);
    return error_set(STATUS_DATA, "%s: broken JSON", path);
}

Status tokenizer_read_json(Tokenizer *t, const char *path) {
    char *bytes;
    size_t size;
    TokenizerTables tables;
    TRY(file_read(path, FILE_BYTES_MAX, &bytes, &size));
    t->hash = hash_bytes(0, bytes, size);
    const TablesResult result = tokenizer_tables_open(&tables, bytes, size);
    free(bytes);
    Status status;
    if (result == TABLES_NO_MEMORY)
        status = error_set(STATUS_FAILED, "%s: not enough memory to read it", path);
    else
        status = result == TABLES_OK ? read_tables(t, &tables, path) : tell_broken(path);
    tokenizer_tables_close(&tables);
    return status;
}
