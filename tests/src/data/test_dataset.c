// Rows of a file as tokens, their order, batches, pairing, cuts and dropout owners, each against its definition written
// out in full. The steps in order: read, tokenise, drop, order, cut into batches, pair, cut the completions.
#include "src/data/dataset.h"
#include "tests/kernels/ops.h" // CHECK

#include <unistd.h>

static Comm comm;
static Tokenizer *tokenizer;
static ChatTemplate *zephyr;
static char folder[] = "/tmp/kto-test-XXXXXX";
static char path[64];
enum { VOCAB = 512 };

// Both get the template zephyr in open_all.
static DatasetOptions plain = {.max_length = 1000, .need_kl = true, .batch_size = 4, .vocab = VOCAB};
static DatasetOptions pairs = {.max_length = 1000, .pairs = true, .loss = "dpo", .batch_size = 4, .vocab = VOCAB};

static void write_file(const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void open_rows(Dataset *dataset, const char *text, const DatasetOptions *options) {
    write_file(text);
    CHECK(dataset_open(dataset, path, tokenizer, options, &comm));
}

typedef struct Ids {
    int32_t *v, count, capacity;
} Ids;
static Ids encode(const char *text, bool bos) {
    Ids ids = {0};
    CHECK(tokenizer_encode(tokenizer, text, strlen(text), bos, &ids.v, &ids.count, &ids.capacity));
    return ids;
}

// Row `index` must hold the tokens of this prompt and of prompt + whole (completion with </s>), split where they part.
static void expect_row(const Dataset *d, int32_t index, const char *prompt, const char *whole, int label, double weight,
                       uint32_t line) {
    const Row *row = &d->rows[index];
    Ids p = encode(prompt, true), both = encode(whole, true);
    int32_t n = 0;
    while (n < p.count && n < both.count && p.v[n] == both.v[n]) n++;
    assert_int_equal(row->prompt_length, n);
    assert_int_equal(row->completion_length, both.count - n);
    assert_memory_equal(d->tokens + row->first, both.v, sizeof(int32_t) * (size_t)n);
    assert_memory_equal(d->tokens + row->completion, both.v + n, sizeof(int32_t) * (size_t)(both.count - n));
    assert_int_equal(row->label, label);
    assert_true(row->weight == (float)weight);
    assert_int_equal(row->line, line);
    free(p.v);
    free(both.v);
}

static void test_tokens(void **state) {
    (void)state;
    Dataset d;
    open_rows(&d,
              "{\"prompt\": \"The river\", \"completion\": \" is quiet.\", \"label\": true}\n"
              "\n"
              "{\"prompt\": \"The river\", \"completion\": \" is quiet.</s>\", \"label\": false, \"weight\": 2.5}\n"
              "{\"prompt\": \"\", \"completion\": \"winter\", \"label\": 1}\n"
              "{\"prompt\": \"The riv\", \"completion\": \"er is\", \"label\": 0}\n",
              &plain);
    assert_int_equal(d.count, 4);
    expect_row(&d, 0, "The river", "The river is quiet.</s>", 1, 1, 1);
    expect_row(&d, 1, "The river", "The river is quiet.</s>", 0, 2.5, 3); // a blank line counts as a line
    expect_row(&d, 2, "", "winter</s>", 1, 1, 4);                         // after BOS alone
    expect_row(&d, 3, "The riv", "The river is</s>", 0, 1, 5);            // the seam may lie before the prompt's end
    assert_int_equal(d.rows[2].prompt_length, 1);
    const int32_t eos = tokenizer_eos(tokenizer);
    for (int32_t i = 0; i < d.count; i++) {
        int32_t ends = 0;
        for (int32_t t = 0; t < d.rows[i].completion_length; t++)
            ends += d.tokens[d.rows[i].completion + (uint64_t)t] == eos;
        assert_int_equal(ends, 1);
        assert_int_equal(d.tokens[d.rows[i].completion + (uint64_t)d.rows[i].completion_length - 1], eos);
        assert_int_equal(d.tokens[d.rows[i].first], tokenizer_bos(tokenizer));
    }
    assert_int_equal(d.counts.read, 4);
    assert_int_equal(d.counts.desirable, 2);
    assert_int_equal(d.counts.undesirable, 2);
    assert_int_equal(d.counts.bad + d.counts.dropped + d.counts.cut, 0);
    dataset_close(&d);
}

// Through TinyLlama's template: no BOS, an answer that ends in </s> and a newline, nothing appended.
static void test_messages(void **state) {
    (void)state;
    Dataset d;
    open_rows(&d,
              "{\"prompt\": [{\"role\": \"user\", \"content\": \"hi\"}], \"completion\": [{\"role\": \"assistant\", "
              "\"content\": \"Yes.\"}], \"label\": true}\n",
              &plain);
    Ids p = encode("<|user|>\nhi</s>\n<|assistant|>\n", false);
    Ids both = encode("<|user|>\nhi</s>\n<|assistant|>\nYes.</s>\n", false);
    int32_t n = 0;
    while (n < p.count && n < both.count && p.v[n] == both.v[n]) n++;
    assert_int_equal(d.rows[0].prompt_length, n);
    assert_int_equal(d.rows[0].completion_length, both.count - n);
    assert_memory_equal(d.tokens + d.rows[0].first, both.v, sizeof(int32_t) * (size_t)both.count);
    dataset_close(&d);

    static char role[] = "user", content[] = "hi";
    Message message = {.role = role, .content = content};
    const TextOrMessages prompt = {.messages = &message, .message_count = 1};
    int32_t *ids, count;
    CHECK(dataset_encode_prompt(&prompt, tokenizer, zephyr, &ids, &count));
    assert_int_equal(count, p.count);
    assert_memory_equal(ids, p.v, sizeof(int32_t) * (size_t)count);
    free(ids);
    free(p.v);
    free(both.v);
    p = encode("The river", true);
    static char text[] = "The river";
    CHECK(dataset_encode_prompt(&(TextOrMessages){.text = text}, tokenizer, NULL, &ids, &count));
    assert_int_equal(count, p.count);
    assert_memory_equal(ids, p.v, sizeof(int32_t) * (size_t)count);
    free(ids);
    free(p.v);
}

static ChatTemplate *chat_of(const char *text) {
    ChatTemplate *chat;
    write_file(text);
    CHECK(chat_template_open(&chat, "", path, "<s>", "</s>", 0));
    return chat;
}

#define CHAT_ROW                                                                                                       \
    "{\"prompt\": [{\"role\": \"user\", \"content\": \"hi\"}], \"completion\": [{\"role\": \"assistant\", "            \
    "\"content\": \"Yes.\"}], \"label\": true%s}\n"

// A template whose opening of the answer is not how an answer begins (DeepSeek R1's): the completion starts where the
// two part, as in TRL.
static void test_openings(void **state) {
    (void)state;
    Dataset d;
    char row[512];
    ChatTemplate *chat = chat_of("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
                                 "{% if add_generation_prompt %}<|assistant|><think>{% endif %}");
    DatasetOptions options = plain;
    options.chat = chat;
    snprintf(row, sizeof row, CHAT_ROW, "");
    open_rows(&d, row, &options);
    Ids p = encode("<|user|>hi<|assistant|><think>", false), both = encode("<|user|>hi<|assistant|>Yes.", false);
    int32_t n = 0;
    while (n < p.count && n < both.count && p.v[n] == both.v[n]) n++;
    assert_true(n > 0 && n < p.count);
    assert_int_equal(d.rows[0].prompt_length, n);
    assert_memory_equal(d.tokens + d.rows[0].first, both.v, sizeof(int32_t) * (size_t)both.count);
    free(p.v), free(both.v);
    dataset_close(&d);
    chat_template_close(chat);
}

// A template that shows the system message with the last message alone: with an answer behind it the prompt is another
// one, and such rows are refused.
static void test_history(void **state) {
    (void)state;
    Dataset d;
    char row[512], want[256];
    ChatTemplate *chat = chat_of("{% for m in messages %}[{{ 'Be kind. ' if loop.last }}{{ m.content }}]{% endfor %}");
    DatasetOptions options = plain;
    options.chat = chat;
    snprintf(row, sizeof row, CHAT_ROW, "");
    write_file(row);
    assert_int_equal(dataset_open(&d, path, tokenizer, &options, &comm), STATUS_DATA);
    snprintf(want, sizeof want,
             "%s:1: the chat template writes the prompt otherwise once an answer follows, from \"Be kind. hi]\" on, so "
             "that the answer cannot be told from it; give a template that does not by data.chat_template",
             path);
    assert_string_equal(error_text(), want);
    error_clear();
    dataset_close(&d);
    options.skip_bad_rows = true;
    write_file(row);
    assert_int_equal(dataset_open(&d, path, tokenizer, &options, &comm), STATUS_DATA); // none is left
    error_clear();
    dataset_close(&d);
    chat_template_close(chat);
}

// Tools, variables and further fields of messages reach the template.
static void test_extras(void **state) {
    (void)state;
    char row[512];
    ChatTemplate *chat = chat_of("{{ x }}{{ tools | tojson }}{% for m in messages %}<{{ m.name }}{{ m.content }}"
                                 "{{ m.tool_calls }}>{% endfor %}");
    snprintf(row, sizeof row,
             "{\"prompt\": [{\"role\": \"user\", \"content\": \"hi\", \"name\": \"Ann\"}, {\"role\": \"assistant\", "
             "\"content\": null, \"tool_calls\": [1]}, {\"role\": \"tool\", \"content\": \"2\"}], \"tools\": "
             "\"[{\\\"a\\\": 1}]\", \"chat_template_kwargs\": {\"x\": true}}\n");
    write_file(row);
    JsonlFile file;
    TextOrMessages prompt;
    int32_t *ids, count;
    CHECK(jsonl_open(&file, path));
    CHECK(jsonl_prompt(&file, 0, &prompt));
    CHECK(dataset_encode_prompt(&prompt, tokenizer, chat, &ids, &count));
    Ids want = encode("True[{\"a\": 1}]<Annhi><[1]><2>", false);
    assert_int_equal(count, want.count);
    assert_memory_equal(ids, want.v, sizeof(int32_t) * (size_t)count);
    free(ids), free(want.v);
    jsonl_prompt_free(&prompt);
    jsonl_close(&file);
    chat_template_close(chat);
}

// All chosen rows first (desirable), then all rejected ones, each in file order, with their line's weight.
static void test_paired(void **state) {
    (void)state;
    Dataset d;
    open_rows(&d,
              "{\"prompt\": \"One\", \"chosen\": \" good a\", \"rejected\": \" bad a\"}\n"
              "{\"prompt\": \"Two\", \"chosen\": \" good b</s>\", \"rejected\": \" bad b\", \"weight\": 0.5}\n"
              "{\"prompt\": \"Three\", \"chosen\": \" good c\", \"rejected\": \" bad c\"}\n",
              &plain);
    static const char *const prompt[] = {"One", "Two", "Three"}, letter[] = "abc";
    assert_int_equal(d.count, 6);
    for (int32_t i = 0; i < 6; i++) {
        char whole[64];
        snprintf(whole, sizeof whole, "%s %s %c</s>", prompt[i % 3], i < 3 ? "good" : "bad", letter[i % 3]);
        expect_row(&d, i, prompt[i % 3], whole, i < 3, i % 3 == 1 ? 0.5 : 1, (uint32_t)i % 3 + 1);
    }
    assert_int_equal(d.counts.read, 3);
    assert_int_equal(d.counts.desirable, 3);
    assert_int_equal(d.counts.undesirable, 3);
    dataset_close(&d);
}

// --- pairs ----------------------------------------------------------------------------------------------------------

// Pair `index` by its definition: prompt and both answers as tokens, the prompt's seam the first of the two.
static void expect_pair(const Dataset *d, int32_t index, const char *prompt, const char *chosen, const char *rejected,
                        double weight, uint32_t line) {
    char whole[2][256];
    snprintf(whole[0], sizeof whole[0], "%s%s", prompt, chosen);
    snprintf(whole[1], sizeof whole[1], "%s%s", prompt, rejected);
    Ids p = encode(prompt, true), both[2] = {encode(whole[0], true), encode(whole[1], true)};
    int32_t seam = p.count;
    for (int c = 0; c < 2; c++) {
        int32_t n = 0;
        while (n < p.count && n < both[c].count && p.v[n] == both[c].v[n]) n++;
        if (n < seam) seam = n;
    }
    for (int c = 0; c < 2; c++) {
        const Row *row = &d->rows[c == 0 ? index : d->count + index];
        assert_int_equal(row->first, d->rows[index].first); // the prompt is stored once
        assert_int_equal(row->prompt_length, seam);
        assert_int_equal(row->completion_length, both[c].count - seam);
        assert_memory_equal(d->tokens + row->first, both[c].v, sizeof(int32_t) * (size_t)seam);
        assert_memory_equal(d->tokens + row->completion, both[c].v + seam,
                            sizeof(int32_t) * (size_t)(both[c].count - seam));
        assert_int_equal(row->label, c == 0);
        assert_true(row->weight == (float)weight);
        assert_int_equal(row->line, line);
    }
    free(p.v), free(both[0].v), free(both[1].v);
}

static void test_pairs(void **state) {
    (void)state;
    Dataset d;
    open_rows(&d,
              "{\"prompt\": \"The river\", \"chosen\": \" is quiet.\", \"rejected\": \" is broken\"}\n"
              "\n"
              "{\"prompt\": \"The riv\", \"chosen\": \" a\", \"rejected\": \"er is\", \"weight\": 2.5}\n"
              "{\"prompt\": \"The riv\", \"chosen\": \"er is\", \"rejected\": \" a\"}\n",
              &pairs);
    assert_true(d.pairs && d.count == 3 && d.row_count == 6 && d.kl_row == NULL);
    expect_pair(&d, 0, "The river", " is quiet.</s>", " is broken</s>", 1, 1);
    expect_pair(&d, 1, "The riv", " a</s>", "er is</s>", 2.5, 3);
    expect_pair(&d, 2, "The riv", "er is</s>", " a</s>", 1, 4);
    assert_int_equal(d.rows[1].prompt_length, d.rows[2].prompt_length);
    Ids whole = encode("The riv", true); // one of the answers takes a part of the prompt's end, so both do
    assert_true(d.rows[1].prompt_length < whole.count);
    free(whole.v);
    assert_int_equal(d.counts.read, 3);
    assert_int_equal(d.counts.desirable, 3);
    assert_int_equal(d.counts.undesirable, 3);
    dataset_close(&d);
    open_rows(&d,
              "{\"prompt\": [{\"role\": \"user\", \"content\": \"hi\"}], \"chosen\": [{\"role\": \"assistant\", "
              "\"content\": \"Yes.\"}], \"rejected\": [{\"role\": \"assistant\", \"content\": \"No.\"}]}\n",
              &pairs);
    Ids yes = encode("<|user|>\nhi</s>\n<|assistant|>\nYes.</s>\n", false);
    Ids no = encode("<|user|>\nhi</s>\n<|assistant|>\nNo.</s>\n", false);
    const int32_t p = d.rows[0].prompt_length;
    assert_memory_equal(d.tokens + d.rows[0].first, yes.v, sizeof(int32_t) * (size_t)yes.count);
    assert_int_equal(d.rows[1].completion_length, no.count - p);
    assert_memory_equal(d.tokens + d.rows[1].completion, no.v + p, sizeof(int32_t) * (size_t)(no.count - p));
    free(yes.v), free(no.v);
    dataset_close(&d);
}

// --- many rows ------------------------------------------------------------------------------------------------------

// `lines` labelled rows whose prompts are drawn from few, and begin alike.
static char *random_file(int32_t lines, uint32_t seed, uint32_t prompts) {
    static const char *const words[] = {"river", "garden", "lantern", "teacher", "harbour", "engine", "violin"};
    Rng rng = rng_make(seed, 0, 0);
    const size_t size = (size_t)lines * 400 + 1;
    char *text = ops_host(size);
    size_t at = 0;
    for (int32_t i = 0; i < lines; i++) {
        const uint32_t which = rng_below(&rng, prompts);
        at += (size_t)snprintf(text + at, size - at, "{\"prompt\": \"The");
        for (uint32_t w = 0; w <= which % 9; w++)
            at += (size_t)snprintf(text + at, size - at, " %s", words[(which * w + which / 9) % 7]);
        at += (size_t)snprintf(text + at, size - at, "\", \"completion\": \" Answer %u", rng_below(&rng, 1000));
        for (uint32_t w = rng_below(&rng, 8); w > 0; w--)
            at += (size_t)snprintf(text + at, size - at, " %s", words[rng_below(&rng, 7)]);
        at += (size_t)snprintf(text + at, size - at, ".\", \"label\": %u}\n", rng_below(&rng, 2));
    }
    assert_true(at < size);
    return text;
}

static char *random_pairs(int32_t lines, uint32_t seed) {
    char *text = ops_host((size_t)lines * 400);
    size_t at = 0;
    Rng rng = rng_make(seed, 0, 0);
    for (int32_t i = 0; i < lines; i++) {
        at += (size_t)sprintf(text + at, "{\"prompt\": \"The");
        for (uint32_t w = rng_below(&rng, 12); w > 0; w--) at += (size_t)sprintf(text + at, " river");
        at += (size_t)sprintf(text + at, "%s\", \"chosen\": \"%s yes %d", rng_below(&rng, 2) ? " " : "",
                              rng_below(&rng, 2) ? " " : "", i);
        for (uint32_t w = rng_below(&rng, 9); w > 0; w--) at += (size_t)sprintf(text + at, " garden");
        at += (size_t)sprintf(text + at, "\", \"rejected\": \"no");
        for (uint32_t w = rng_below(&rng, 9); w > 0; w--) at += (size_t)sprintf(text + at, " lantern");
        at += (size_t)sprintf(text + at, "\"}\n");
    }
    return text;
}

static bool same_prompt(const Dataset *d, int32_t i, int32_t j) {
    const Row *a = &d->rows[i], *b = &d->rows[j];
    return a->prompt_length == b->prompt_length &&
           memcmp(d->tokens + a->first, d->tokens + b->first, sizeof(int32_t) * (size_t)a->prompt_length) == 0;
}

// The rule in words: the completion of the nearest row before it in its batch, cyclically, whose prompt differs; if all
// are equal, the row just before; a batch of one row takes the row before it in the order.
static int32_t pair_of(const Dataset *d, int32_t place) {
    const int32_t batch = place / d->batch_size, begin = batch * d->batch_size;
    const int32_t end = begin + d->batch_size < d->count ? begin + d->batch_size : d->count;
    if (end - begin == 1) return d->order[(place + d->count - 1) % d->count];
    for (int32_t other = place - 1;; other--) {
        if (other < begin) other = end - 1;
        if (other == place) break;
        if (!same_prompt(d, d->order[place], d->order[other])) return d->order[other];
    }
    return d->order[place > begin ? place - 1 : end - 1];
}

static void check_batches(const Dataset *d) {
    bool *seen = ops_host((size_t)d->count);
    BatchRow *rows = ops_host((size_t)d->batch_size * sizeof *rows);
    DatasetCounts want = {0};
    int32_t place = 0;
    assert_int_equal(d->batch_count, (d->count + d->batch_size - 1) / d->batch_size);
    for (int32_t b = 0; b < d->batch_count; b++) {
        const int32_t n = dataset_batch_rows(d, b);
        assert_int_equal(n, b < d->batch_count - 1 ? d->batch_size : d->count - b * d->batch_size);
        dataset_batch(d, b, rows);
        for (int32_t i = 0; i < n; i++, place++) {
            const int32_t index = d->order[place];
            const Row *row = &d->rows[index];
            assert_false(seen[index]);
            seen[index] = true;
            assert_int_equal(rows[i].row, index);
            assert_ptr_equal(rows[i].prompt, d->tokens + row->first);
            assert_int_equal(rows[i].prompt_length, row->prompt_length);
            assert_ptr_equal(rows[i].owner, d->owners == NULL ? NULL : d->owners + row->first);
            assert_int_equal(rows[i].completion_count, d->kl_row == NULL && !d->pairs ? 1 : 2);
            if (d->pairs) assert_int_equal(rows[i].rejected_row, d->count + index);
            if (d->kl_row != NULL) assert_int_equal(d->kl_row[index], pair_of(d, place));
            int64_t longest = 0;
            for (int32_t c = 0; c < rows[i].completion_count; c++) {
                const Row *from = c == 0 ? row : &d->rows[d->pairs ? d->count + index : d->kl_row[index]];
                const int64_t room = d->max_length - row->prompt_length;
                const int64_t length = from->completion_length < room ? from->completion_length : room;
                assert_int_equal(rows[i].completion[c].role, c == 0 ? ROLE_POLICY : d->pairs ? ROLE_REJECTED : ROLE_KL);
                assert_ptr_equal(rows[i].completion[c].tokens, d->tokens + from->completion);
                assert_int_equal(rows[i].completion[c].length, length);
                assert_true(length >= 1);
                if (row->prompt_length + length > longest) longest = row->prompt_length + length;
            }
            for (int c = 0; c < (d->pairs ? 2 : 1); c++) {
                const Row *from = c == 0 ? row : &d->rows[d->count + index];
                want.cut += rows[i].completion[c].length < from->completion_length;
                want.tokens += row->prompt_length + rows[i].completion[c].length;
                want.completion_tokens += rows[i].completion[c].length;
            }
            if (longest > want.longest) want.longest = longest;
        }
    }
    assert_int_equal(place, d->count);
    assert_int_equal(d->counts.cut, want.cut);
    assert_int_equal(d->counts.tokens, want.tokens);
    assert_int_equal(d->counts.completion_tokens, want.completion_tokens);
    assert_int_equal(d->counts.longest, want.longest);
    free(seen);
    free(rows);
}

static void test_pairing(void **state) {
    (void)state;
    static const int32_t sizes[] = {1, 2, 3, 5, 8, 40, 41, 100};
    for (uint32_t prompts = 1; prompts <= 40; prompts = prompts * 3 + 1)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            char *text = random_file(41, prompts, prompts);
            DatasetOptions options = plain;
            options.batch_size = sizes[s];
            options.shuffle = s % 2 == 0;
            options.seed = 3;
            Dataset d;
            open_rows(&d, text, &options);
            assert_int_equal(d.count, 41);
            check_batches(&d);
            dataset_close(&d);
            options.need_kl = false;
            open_rows(&d, text, &options);
            assert_null(d.kl_row);
            check_batches(&d);
            dataset_close(&d);
            free(text);
        }
    Dataset d; // one row in all pairs with itself
    open_rows(&d, "{\"prompt\": \"The\", \"completion\": \" river\", \"label\": true}\n", &plain);
    assert_int_equal(d.kl_row[0], 0);
    check_batches(&d);
    dataset_close(&d);
}

// Rows whose prompt fills max_length go; completions are cut at the end; max_prompt_length keeps the prompt's end.
static void test_lengths(void **state) {
    (void)state;
    enum { LINES = 120 };
    char *text = random_file(LINES, 9, 60);
    Dataset all, d;
    open_rows(&all, text, &plain);
    int64_t dropped_seen = 0, cut_seen = 0;
    for (int64_t max_length = 5; max_length <= 45; max_length += 8)
        for (int64_t max_prompt = 0; max_prompt < max_length; max_prompt += 6) {
            DatasetOptions options = plain;
            options.max_length = max_length;
            options.max_prompt_length = max_prompt;
            Status status = dataset_open(&d, path, tokenizer, &options, &comm);
            int32_t next = 0;
            for (int32_t i = 0; i < all.count; i++) {
                const Row *whole = &all.rows[i];
                const int32_t skip = max_prompt > 0 && whole->prompt_length > max_prompt
                                         ? whole->prompt_length - (int32_t)max_prompt
                                         : 0;
                if (whole->prompt_length - skip >= max_length) continue;
                assert_int_equal(status, STATUS_OK);
                assert_true(next < d.count);
                const Row *row = &d.rows[next++];
                assert_int_equal(row->line, whole->line);
                assert_int_equal(row->prompt_length, whole->prompt_length - skip);
                assert_int_equal(row->completion_length, whole->completion_length); // stays uncut for its pair
                assert_memory_equal(d.tokens + row->first, all.tokens + whole->first + (uint64_t)skip,
                                    sizeof(int32_t) * (size_t)(row->prompt_length + row->completion_length));
            }
            if (status != STATUS_OK) {
                assert_int_equal(status, STATUS_DATA);
                assert_int_equal(next, 0);
                assert_non_null(strstr(error_text(), "all 120 rows"));
                error_clear();
                continue;
            }
            assert_int_equal(d.count, next);
            assert_int_equal(d.counts.dropped, LINES - next);
            check_batches(&d);
            dropped_seen += d.counts.dropped;
            cut_seen += d.counts.cut;
            dataset_close(&d);
        }
    assert_true(dropped_seen > 100 && cut_seen > 100); // both did happen
    dataset_close(&all);
    free(text);
}

// Random pairs: both answers go when the prompt fills max_length, each is cut for itself, and a pair is never parted.
static void test_pairs_lengths(void **state) {
    (void)state;
    enum { LINES = 60 };
    char *text = random_pairs(LINES, 12);
    Dataset all, d;
    open_rows(&all, text, &pairs);
    assert_int_equal(all.count, LINES);
    int64_t dropped_seen = 0, cut_seen = 0;
    for (int64_t max_length = 8; max_length <= 64; max_length += 8)
        for (int64_t max_prompt = 0; max_prompt < max_length; max_prompt += 6) {
            DatasetOptions options = pairs;
            options.max_length = max_length;
            options.max_prompt_length = max_prompt;
            options.shuffle = max_length % 16 == 0;
            open_rows(&d, text, &options);
            assert_int_equal(d.row_count, 2 * d.count);
            int32_t next = 0;
            for (int32_t i = 0; i < all.count; i++) {
                const Row *whole = &all.rows[i];
                const int32_t skip = max_prompt > 0 && whole->prompt_length > max_prompt
                                         ? whole->prompt_length - (int32_t)max_prompt
                                         : 0;
                if (whole->prompt_length - skip >= max_length) continue;
                for (int c = 0; c < 2; c++) {
                    const Row *row = &d.rows[c * d.count + next], *from = &all.rows[c * all.count + i];
                    assert_int_equal(row->line, from->line);
                    assert_int_equal(row->label, c == 0);
                    assert_int_equal(row->prompt_length, from->prompt_length - skip);
                    assert_memory_equal(d.tokens + row->first, all.tokens + from->first + (uint64_t)skip,
                                        sizeof(int32_t) * (size_t)row->prompt_length);
                    assert_int_equal(row->completion_length, from->completion_length);
                    assert_memory_equal(d.tokens + row->completion, all.tokens + from->completion,
                                        sizeof(int32_t) * (size_t)row->completion_length);
                }
                next++;
            }
            assert_int_equal(d.count, next);
            assert_int_equal(d.counts.dropped, LINES - next);
            check_batches(&d);
            dropped_seen += d.counts.dropped;
            cut_seen += d.counts.cut;
            dataset_close(&d);
        }
    assert_true(dropped_seen > 50 && cut_seen > 100); // both did happen
    dataset_close(&all);
    free(text);
}

static void test_orders(void **state) {
    (void)state;
    char *text = random_file(60, 5, 60);
    DatasetOptions options = plain;
    Dataset sequential, a, b, c;
    open_rows(&sequential, text, &options);
    for (int32_t i = 0; i < 60; i++) assert_int_equal(sequential.order[i], i);
    options.shuffle = true;
    options.seed = 1;
    open_rows(&a, text, &options);
    open_rows(&b, text, &options);
    options.seed = 2;
    open_rows(&c, text, &options);
    const size_t bytes = 60 * sizeof(int32_t);
    assert_memory_equal(a.order, b.order, bytes);
    assert_memory_not_equal(a.order, c.order, bytes);
    assert_memory_not_equal(a.order, sequential.order, bytes);

    enum { BATCHES = 15 };
    int32_t first[BATCHES], visit[BATCHES], again[BATCHES], identity[BATCHES];
    for (int32_t i = 0; i < BATCHES; i++) identity[i] = i;
    assert_int_equal(a.batch_count, BATCHES);
    for (int64_t epoch = 0; epoch < 5; epoch++) {
        dataset_epoch_order(&a, true, 1, epoch, visit);
        dataset_epoch_order(&a, true, 1, epoch, again);
        assert_memory_equal(visit, again, sizeof visit);
        bool seen[BATCHES] = {false};
        for (int32_t i = 0; i < BATCHES; i++) {
            assert_in_range(visit[i], 0, BATCHES - 1);
            assert_false(seen[visit[i]]);
            seen[visit[i]] = true;
        }
        if (epoch == 0) assert_memory_equal(visit, identity, sizeof visit);
        if (epoch == 1) memcpy(first, visit, sizeof first);
        if (epoch > 0) assert_memory_not_equal(visit, identity, sizeof visit);
        if (epoch > 1) assert_memory_not_equal(visit, first, sizeof visit);
        dataset_epoch_order(&a, true, 2, epoch, again);
        if (epoch > 0) assert_memory_not_equal(visit, again, sizeof visit);
        dataset_epoch_order(&a, false, 1, epoch, visit);
        assert_memory_equal(visit, identity, sizeof visit);
    }
    dataset_close(&sequential), dataset_close(&a), dataset_close(&b), dataset_close(&c);
    free(text);
}

// --- hash, bad rows, owners -----------------------------------------------------------------------------------------

#define LINE(prompt, completion, rest)                                                                                 \
    "{\"prompt\": \"" prompt "\", \"completion\": \"" completion "\", \"label\": " rest "}\n"
#define PAIR(chosen, rejected) "{\"prompt\": \"One\", \"chosen\": \"" chosen "\", \"rejected\": \"" rejected "\""
#define TAIL                   LINE("Two", " b", "false") LINE("Three", " c", "true") LINE("Four", " d", "true")

static uint64_t hash_of(const char *text, const DatasetOptions *options) {
    Dataset d;
    open_rows(&d, text, options);
    const uint64_t hash = d.hash;
    dataset_close(&d);
    return hash;
}

static void test_hash(void **state) {
    (void)state;
    static const char base[] = LINE("One", " a", "true") TAIL;
    uint64_t hashes[20];
    int n = 0;
    hashes[n++] = hash_of(base, &plain);
    assert_true(hash_of(base, &plain) == hashes[0]);
    assert_true(hash_of("\n" LINE("One", " a</s>", "1, \"weight\": 1.0") TAIL, &plain) == hashes[0]); // the same rows
    hashes[n++] = hash_of(LINE("One", " e", "true") TAIL, &plain);
    hashes[n++] = hash_of(LINE("Ona", " a", "true") TAIL, &plain);
    hashes[n++] = hash_of(LINE("One", " a", "false") TAIL, &plain);
    hashes[n++] = hash_of(LINE("One", " a", "true, \"weight\": 1.25") TAIL, &plain);
    hashes[n++] = hash_of(TAIL LINE("One", " a", "true"), &plain);
    hashes[n++] = hash_of(TAIL, &plain);
    DatasetOptions options = plain;
    options.batch_size = 2;
    hashes[n++] = hash_of(base, &options);
    options = plain;
    options.max_length = 999;
    hashes[n++] = hash_of(base, &options);
    options = plain;
    options.max_prompt_length = 1;
    hashes[n++] = hash_of(base, &options);
    options = plain;
    options.need_kl = false;
    hashes[n++] = hash_of(base, &options);
    options = plain;
    options.shuffle = true;
    hashes[n++] = hash_of(base, &options);
    hashes[n++] = hash_of(PAIR(" a", " b") "}\n", &pairs);
    hashes[n++] = hash_of(PAIR(" b", " a") "}\n", &pairs); // flipped
    hashes[n++] = hash_of(PAIR(" a", " b") ", \"weight\": 2}\n", &pairs);
    options.shuffle = false;
    hashes[n++] = hash_of(PAIR(" a", " b") "}\n", &options); // two rows of their own
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            if (hashes[i] == hashes[j]) fail_msg("variants %d and %d have the same hash", j, i);
}

static void test_bad_rows(void **state) {
    (void)state;
    static const char text[] = LINE("One", " a", "true") "{\"prompt\": \n" LINE("Two", "", "true")
        LINE("Three", " c", "maybe") LINE("Four", " d", "false");
    write_file(text);
    Dataset d;
    char where[100];
    assert_int_equal(dataset_open(&d, path, tokenizer, &plain, &comm), STATUS_DATA);
    snprintf(where, sizeof where, "%s:2: ", path);
    assert_int_equal(strncmp(error_text(), where, strlen(where)), 0);
    error_clear();
    dataset_close(&d);
    DatasetOptions options = plain;
    options.skip_bad_rows = true;
    open_rows(&d, text, &options);
    assert_int_equal(d.count, 2);
    assert_int_equal(d.counts.read, 5);
    assert_int_equal(d.counts.bad, 3);
    assert_int_equal(strncmp(d.counts.first_bad, where, strlen(where)), 0);
    assert_string_equal(error_text(), "");
    expect_row(&d, 0, "One", "One a</s>", 1, 1, 1);
    expect_row(&d, 1, "Four", "Four d</s>", 0, 1, 5);
    dataset_close(&d);
    // A pair of which one answer is bad gives no row at all.
    open_rows(&d,
              "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"chosen\": [{\"role\": \"assistant\", "
              "\"content\": \"b\"}], \"rejected\": [{\"role\": \"nobody\", \"content\": \"c\"}]}\n" LINE("Four", " d",
                                                                                                         "false"),
              &options);
    assert_int_equal(d.count, 1);
    assert_int_equal(d.counts.bad, 1);
    expect_row(&d, 0, "Four", "Four d</s>", 0, 1, 2);
    dataset_close(&d);
    write_file(LINE("One", "", "true"));
    assert_int_equal(dataset_open(&d, path, tokenizer, &options, &comm), STATUS_DATA);
    assert_non_null(strstr(error_text(), "no usable row"));
    error_clear();
    dataset_close(&d);
    // Rows that are no pairs, where the loss takes pairs.
    write_file(PAIR(" a", " b") "}\n" LINE("Two", " c", "true"));
    assert_int_equal(dataset_open(&d, path, tokenizer, &pairs, &comm), STATUS_DATA);
    assert_int_equal(strncmp(error_text(), where, strlen(where)), 0);
    assert_non_null(strstr(error_text(), "kto.loss_type = \"dpo\" learns from pairs; give {\"prompt\", "));
    error_clear();
    dataset_close(&d);
    options = pairs;
    options.skip_bad_rows = true;
    open_rows(&d, LINE("Two", " c", "true") PAIR(" a", "") "}\n" PAIR(" a", " b") "}\n" PAIR("", " b") "}\n", &options);
    assert_true(d.count == 1 && d.row_count == 2 && d.counts.bad == 3);
    expect_pair(&d, 0, "One", " a</s>", " b</s>", 1, 3);
    dataset_close(&d);
    // Ids that the model does not have.
    write_file(LINE("One", " a", "true"));
    options = plain;
    options.vocab = 3;
    assert_int_equal(dataset_open(&d, path, tokenizer, &options, &comm), STATUS_DATA);
    assert_non_null(strstr(error_text(), "vocabulary of 3"));
    error_clear();
    dataset_close(&d);
}

static void test_owners(void **state) {
    (void)state;
    for (uint32_t seed = 0; seed < 4; seed++) {
        char *text = random_file(90, seed, 8 + 30 * seed);
        DatasetOptions options = plain;
        options.need_owners = true;
        options.shuffle = seed % 2;
        options.max_prompt_length = seed == 3 ? 7 : 0;
        Dataset d;
        open_rows(&d, text, &options);
        int64_t shared = 0;
        for (int32_t i = 0; i < d.count; i++)
            for (int32_t t = 0; t < d.rows[i].prompt_length; t++) {
                int32_t first = 0; // the first row whose prompt begins with these t + 1 tokens
                while (d.rows[first].prompt_length <= t ||
                       memcmp(d.tokens + d.rows[first].first, d.tokens + d.rows[i].first,
                              sizeof(int32_t) * ((size_t)t + 1)) != 0)
                    first++;
                assert_int_equal(d.owners[d.rows[i].first + (uint64_t)t], first);
                shared += first != i;
            }
        assert_true(shared > 90);
        check_batches(&d);
        dataset_close(&d);
        free(text);
    }
}

// Of a pair only the chosen row's prompt is laid out, and its owners are chosen rows.
static void test_pairs_owners(void **state) {
    (void)state;
    DatasetOptions options = pairs;
    options.need_owners = true;
    Dataset d;
    open_rows(&d, PAIR(" a", " b") "}\n{\"prompt\": \"One more\", \"chosen\": \" c\", \"rejected\": \" d\"}\n",
              &options);
    const Row *first = &d.rows[0], *second = &d.rows[1];
    assert_true(second->prompt_length > first->prompt_length);
    for (int32_t t = 0; t < first->prompt_length; t++) assert_int_equal(d.owners[first->first + (uint64_t)t], 0);
    for (int32_t t = 0; t < second->prompt_length; t++)
        assert_int_equal(d.owners[second->first + (uint64_t)t], t < first->prompt_length ? 0 : 1);
    check_batches(&d);
    dataset_close(&d);
}

// --- a line's tokens ------------------------------------------------------------------------------------------------

// What dataset_encode_row says of each line is what a data set of these lines trains on. *dropped counts the
// rows that are left out.
static void check_encoded(const char *text, bool paired, const DatasetOptions *options, int64_t *dropped) {
    Dataset d;
    JsonlFile file;
    RowTokens tokens = {0};
    open_rows(&d, text, options);
    CHECK(jsonl_open(&file, path));
    BatchRow *batch = calloc((size_t)d.count, sizeof *batch);
    assert_non_null(batch);
    assert_true(d.batch_count == 1);
    dataset_batch(&d, 0, batch);
    const int32_t chosen = (int32_t)(paired ? d.counts.desirable : d.row_count); // rejected rows come last
    int32_t next[2] = {0, chosen};
    for (int64_t line = 0; line < file.line_count; line++) {
        JsonlRow row;
        CHECK(jsonl_row(&file, line, &row));
        CHECK(dataset_encode_row(&tokens, &row, tokenizer, options));
        assert_int_equal(tokens.count, paired ? 2 : 1);
        for (int which = 0; which < tokens.count; which++) {
            const AnswerTokens *a = &tokens.answer[which];
            if (a->dropped) {
                assert_int_equal(a->end, a->seam);
                ++*dropped;
                continue;
            }
            const int32_t index = next[which]++;
            const BatchRow *trained = &batch[options->pairs ? index - which * d.count : index];
            assert_int_equal(d.rows[index].line, file.line_number[line]);
            assert_int_equal(trained->prompt_length, a->seam - a->first);
            assert_memory_equal(trained->prompt, a->all.id + a->first, sizeof(int32_t) * (size_t)(a->seam - a->first));
            const Completion *scored = &trained->completion[options->pairs ? which : 0];
            assert_int_equal(scored->length, a->end - a->seam);
            assert_memory_equal(scored->tokens, a->all.id + a->seam, sizeof(int32_t) * (size_t)(a->end - a->seam));
        }
        jsonl_row_free(&row);
    }
    assert_int_equal(next[0], chosen);
    assert_int_equal(next[1], d.row_count);
    row_tokens_free(&tokens);
    jsonl_close(&file);
    free(batch);
    dataset_close(&d);
}

static void test_encoded(void **state) {
    (void)state;
    enum { LINES = 60 };
    char *rows = random_file(LINES, 5, 30), *paired = random_pairs(LINES, 6);
    int64_t dropped = 0;
    for (int64_t max_length = 14; max_length <= 46; max_length += 8)
        for (int64_t max_prompt = 0; max_prompt <= 12; max_prompt += 6)
            for (int kind = 0; kind < 3; kind++) { // labelled rows, pairs as rows, pairs
                DatasetOptions options = kind == 2 ? pairs : plain;
                options.max_length = max_length;
                options.max_prompt_length = max_prompt;
                options.batch_size = 2 * LINES;
                check_encoded(kind == 0 ? rows : paired, kind > 0, &options, &dropped);
            }
    assert_true(dropped > 0);
    free(rows);
    free(paired);
}

static int open_all(void **state) {
    (void)state;
    if (mkdtemp(folder) == NULL) return 1;
    snprintf(path, sizeof path, "%s/rows.jsonl", folder);
    CHECK(tokenizer_open(&tokenizer, TEST_DATA "/tiny-model"));
    CHECK(chat_template_open(&zephyr, "", "zephyr", "<s>", "</s>", 0));
    plain.chat = pairs.chat = zephyr;
    return 0;
}

static int close_all(void **state) {
    (void)state;
    chat_template_close(zephyr);
    tokenizer_close(tokenizer);
    return unlink(path) != 0 || rmdir(folder) != 0;
}

int main(int argc, char **argv) {
    if (comm_open(&comm, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", error_text());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),   cmocka_unit_test(test_messages),      cmocka_unit_test(test_paired),
        cmocka_unit_test(test_openings), cmocka_unit_test(test_history),       cmocka_unit_test(test_extras),
        cmocka_unit_test(test_pairing),  cmocka_unit_test(test_lengths),       cmocka_unit_test(test_orders),
        cmocka_unit_test(test_hash),     cmocka_unit_test(test_bad_rows),      cmocka_unit_test(test_owners),
        cmocka_unit_test(test_pairs),    cmocka_unit_test(test_pairs_lengths), cmocka_unit_test(test_pairs_owners),
        cmocka_unit_test(test_encoded),
    };
    int failed = cmocka_run_group_tests(tests, open_all, close_all);
    comm_close(&comm);
    return failed;
}
