// Rows as tokens, order, global batches and pairing. Reading JSON and making tokens is io/'s.
#include "src/data/dataset.h"

#include "io/jsonl.h"
#include "src/base/hash.h"
#include "src/base/memory.h"
#include "src/base/rng.h"

#include <stdlib.h>
#include <string.h>

// --- one row to tokens ----------------------------------------------------------------------------------------------

static Status encode_text(const Tokenizer *tokenizer, const char *text, bool plain, TokenList *out) {
    out->count = 0;
    return tokenizer_encode(tokenizer, text, strlen(text), plain, &out->id, &out->count, &out->capacity);
}

// The messages of a prompt, and of an answer behind them where it is not NULL, through the chat template.
static Status encode_messages(const Tokenizer *tokenizer, const ChatTemplate *chat, JinjaScratch *scratch,
                              const TextOrMessages *prompt, const TextOrMessages *answer, TokenList *out) {
    const char *text;
    size_t bytes;
    out->count = 0;
    TRY(chat_template_render(chat, scratch, prompt, answer, answer == NULL, &text, &bytes));
    // What a template writes is complete: no BOS is added.
    return tokenizer_encode(tokenizer, text, bytes, false, &out->id, &out->count, &out->capacity);
}

Status dataset_encode_prompt(const TextOrMessages *prompt, const Tokenizer *tokenizer, const ChatTemplate *chat,
                             int32_t **ids, int32_t *count) {
    TokenList out = {0};
    JinjaScratch scratch = {0};
    Status status = prompt->text != NULL ? encode_text(tokenizer, prompt->text, true, &out)
                                         : encode_messages(tokenizer, chat, &scratch, prompt, NULL, &out);
    jinja_scratch_free(&scratch);
    if (status == STATUS_OK && out.count == 0)
        status = error_set(STATUS_DATA, "an empty prompt and a tokenizer without BOS leave nothing to start from");
    *ids = out.id;
    *count = out.count;
    return status;
}

// prompt and prompt+completion as ids (TRL 1.16's tokenize_fn); the completion starts where they diverge.
static Status encode_pair(const Tokenizer *tokenizer, const ChatTemplate *chat, JinjaScratch *scratch,
                          const TextOrMessages *prompt, const TextOrMessages *completion, TokenList *prompt_ids,
                          TokenList *both_ids) {
    if (prompt->text == NULL) {
        TRY(encode_messages(tokenizer, chat, scratch, prompt, NULL, prompt_ids));
        return encode_messages(tokenizer, chat, scratch, prompt, completion, both_ids);
    }
    const char *eos = tokenizer_eos_text(tokenizer);
    const size_t p = strlen(prompt->text), c = strlen(completion->text), e = strlen(eos);
    const bool has_eos = c >= e && strcmp(completion->text + c - e, eos) == 0;
    char *text = malloc(p + c + e + 1);
    if (text == NULL) return error_set(STATUS_FAILED, "out of memory for a row of %zu bytes", p + c);
    memcpy(text, prompt->text, p);
    memcpy(text + p, completion->text, c + 1);
    if (!has_eos) memcpy(text + p + c, eos, e + 1);
    Status status = encode_text(tokenizer, prompt->text, true, prompt_ids);
    if (status == STATUS_OK) status = encode_text(tokenizer, text, true, both_ids);
    free(text);
    return status;
}

static size_t common_bytes(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] != '\0' && a[n] == b[n]) n++;
    return n;
}

// A template may open the answer's turn otherwise than an answer does (DeepSeek R1's "<think>"): the completion starts
// where they part then, as in TRL 1.16. But where it writes the messages before that turn otherwise once an answer
// follows, words of the prompt would be scored as the answer's.
static Status check_history(const ChatTemplate *chat, JinjaScratch *scratch, const TextOrMessages *prompt,
                            const TextOrMessages *completion) {
    const char *text;
    size_t bytes;
    TRY(chat_template_render(chat, scratch, prompt, NULL, true, &text, &bytes));
    char *asked = strdup(text);
    if (asked == NULL) return error_set(STATUS_FAILED, "out of memory for a row of %zu bytes", bytes);
    Status status = chat_template_render(chat, scratch, prompt, NULL, false, &text, &bytes);
    const size_t history = status == STATUS_OK ? common_bytes(asked, text) : 0;
    if (status == STATUS_OK) status = chat_template_render(chat, scratch, prompt, completion, false, &text, &bytes);
    const size_t kept = status == STATUS_OK ? common_bytes(asked, text) : 0;
    if (status == STATUS_OK && kept < history)
        status =
            error_set(STATUS_DATA,
                      "the chat template writes the prompt otherwise once an answer follows, from \"%.24s\" on, so "
                      "that the answer cannot be told from it; give a template that does not by "
                      "data.chat_template",
                      asked + kept);
    free(asked);
    return status;
}

// The number of tokens that prompt and prompt+completion begin with alike.
static Status find_seam(const ChatTemplate *chat, JinjaScratch *scratch, const TextOrMessages *prompt,
                        const TextOrMessages *completion, const TokenList *start, const TokenList *both,
                        int32_t *seam) {
    int32_t p = 0;
    while (p < start->count && p < both->count && start->id[p] == both->id[p]) p++;
    *seam = p;
    if (p < start->count && prompt->text == NULL) TRY(check_history(chat, scratch, prompt, completion));
    if (p == 0)
        return error_set(STATUS_DATA, "the prompt is empty and the tokenizer adds no BOS; give the prompt a text");
    if (p == both->count) return error_set(STATUS_DATA, "the completion is empty once tokenised; give it a text");
    return STATUS_OK;
}

// Encodes completion `which` of a row, whose prompt's tokens end where it parts from the prompt alone.
static Status encode_answer(RowTokens *out, const JsonlRow *row, int which, const Tokenizer *tokenizer,
                            const DatasetOptions *options) {
    AnswerTokens *answer = &out->answer[which];
    const TextOrMessages *asked = &row->prompt, *answered = &row->completion[which];
    TRY(encode_pair(tokenizer, options->chat, &out->scratch, asked, answered, &out->prompt, &answer->all));
    TRY(find_seam(options->chat, &out->scratch, asked, answered, &out->prompt, &answer->all, &answer->seam));
    for (int32_t i = 0; i < answer->all.count; i++)
        if (answer->all.id[i] < 0 || answer->all.id[i] >= options->vocab)
            return error_set(STATUS_DATA,
                             "token id %d is not in the model's vocabulary of %d; tokenizer and model do not belong "
                             "together",
                             answer->all.id[i], options->vocab);
    return STATUS_OK;
}

// How many tokens of a completion max_length leaves behind a prompt that is shorter than it.
static int32_t kept_length(int64_t max_length, int32_t prompt_length, int32_t completion_length) {
    const int64_t room = max_length - prompt_length;
    return completion_length < room ? completion_length : (int32_t)room;
}

static void cut_answer(AnswerTokens *answer, const DatasetOptions *options) {
    // max_prompt_length keeps the END of an over-long prompt.
    const bool is_long = options->max_prompt_length > 0 && answer->seam > options->max_prompt_length;
    answer->first = is_long ? answer->seam - (int32_t)options->max_prompt_length : 0;
    const int32_t prompt_length = answer->seam - answer->first;
    answer->dropped = prompt_length >= options->max_length;
    answer->end = answer->seam;
    if (!answer->dropped)
        answer->end += kept_length(options->max_length, prompt_length, answer->all.count - answer->seam);
}

// As rows of their own, the completions of a paired line each have the seam where they part from the prompt; as a pair
// they have the first of the two (TRL 1.16's DPOTrainer).
Status dataset_encode_row(RowTokens *out, const JsonlRow *row, const Tokenizer *tokenizer,
                          const DatasetOptions *options) {
    AnswerTokens *answer = out->answer;
    out->count = row->paired ? 2 : 1;
    if (options->pairs && !row->paired)
        return error_set(STATUS_DATA,
                         "is a single answer with a \"label\", and kto.loss_type = \"%s\" learns from pairs; give "
                         "{\"prompt\", \"chosen\", \"rejected\"}, or set kto.loss_type = \"kto\"",
                         options->loss);
    for (int which = 0; which < out->count; which++) TRY(encode_answer(out, row, which, tokenizer, options));
    if (options->pairs)
        answer[0].seam = answer[1].seam = answer[0].seam < answer[1].seam ? answer[0].seam : answer[1].seam;
    for (int which = 0; which < out->count; which++) cut_answer(&answer[which], options);
    return STATUS_OK;
}

void row_tokens_free(RowTokens *tokens) {
    for (int which = 0; which < 2; which++) free(tokens->answer[which].all.id);
    free(tokens->prompt.id);
    jinja_scratch_free(&tokens->scratch);
    *tokens = (RowTokens){0};
}

// --- a share of the file --------------------------------------------------------------------------------------------

// Rows that one rank (and in it one thread) made of its lines. Paired lines give a row to each list.
typedef struct Share {
    Row *row[2]; // [0] labelled and chosen rows, [1] rejected rows; offsets count from this share's tokens
    int64_t row_count[2], row_capacity[2];
    int32_t *tokens;
    int64_t token_count, token_capacity;
    DatasetCounts counts;
    RowTokens line; // at hand
} Share;

static Status grow(void **v, int64_t *capacity, int64_t needed, size_t size) {
    if (needed <= *capacity) return STATUS_OK;
    int64_t wanted = needed + needed / 2 + 1024;
    void *grown = realloc(*v, (size_t)wanted * size);
    if (grown == NULL) return error_set(STATUS_FAILED, "out of memory for %lld rows or tokens", (long long)wanted);
    *v = grown;
    *capacity = wanted;
    return STATUS_OK;
}

// Appends the rows of a line, encoded already, to the list of each. A pair's prompt is stored once.
static Status add_rows(Share *share, uint32_t number, const JsonlRow *source, bool pair) {
    uint64_t first = 0;
    for (int which = 0; which < share->line.count; which++) {
        const AnswerTokens *answer = &share->line.answer[which];
        const bool shared = pair && which == 1;
        if (answer->dropped) {
            share->counts.dropped += !shared;
            continue;
        }
        const int32_t from = shared ? answer->seam : answer->first, n = answer->all.count - from;
        if (!shared) first = (uint64_t)share->token_count;
        TRY(grow((void **)&share->row[which], &share->row_capacity[which], share->row_count[which] + 1, sizeof(Row)));
        TRY(grow((void **)&share->tokens, &share->token_capacity, share->token_count + n, sizeof(int32_t)));
        memcpy(share->tokens + share->token_count, answer->all.id + from, sizeof(int32_t) * (size_t)n);
        share->row[which][share->row_count[which]++] =
            (Row){.first = first,
                  .completion = (uint64_t)(share->token_count + answer->seam - from),
                  .prompt_length = answer->seam - answer->first,
                  .completion_length = answer->all.count - answer->seam,
                  .line = number,
                  .weight = source->weight,
                  .label = source->paired ? which == 0 : source->label};
        share->token_count += n;
    }
    return STATUS_OK;
}

static Status add_line(Share *share, const JsonlFile *file, int64_t line, const Tokenizer *tokenizer,
                       const DatasetOptions *options) {
    JsonlRow source;
    const uint32_t number = file->line_number[line];
    Status status = jsonl_row(file, line, &source);
    if (status == STATUS_OK) {
        status = dataset_encode_row(&share->line, &source, tokenizer, options);
        if (status != STATUS_OK) status = error_at(status, file->path, number);
    }
    if (status == STATUS_OK) status = add_rows(share, number, &source, options->pairs);
    jsonl_row_free(&source);
    if (status != STATUS_DATA || !options->skip_bad_rows) return status;
    if (share->counts.bad++ == 0)
        snprintf(share->counts.first_bad, sizeof share->counts.first_bad, "%.255s", error_text());
    error_clear();
    return STATUS_OK;
}

static void share_free(Share *share) {
    free(share->row[0]);
    free(share->row[1]);
    free(share->tokens);
    row_tokens_free(&share->line);
}

// --- all shares into the node's memory ------------------------------------------------------------------------------

// The dataset's first row with the same token prefix, for every prompt token: what dropout masks of shared prefixes are
// keyed by, so that neither sharing nor packing changes them.
typedef struct OwnerSort {
    const Row *rows;
    const int32_t *tokens;
} OwnerSort;

static int32_t common_tokens(const OwnerSort *sort, int32_t i, int32_t j) {
    const Row *a = &sort->rows[i], *b = &sort->rows[j];
    int32_t limit = a->prompt_length < b->prompt_length ? a->prompt_length : b->prompt_length, n = 0;
    while (n < limit && sort->tokens[a->first + (uint64_t)n] == sort->tokens[b->first + (uint64_t)n]) n++;
    return n;
}

static int compare_rows(const void *a, const void *b, void *sort_) {
    const OwnerSort *sort = sort_;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b, n = common_tokens(sort, i, j);
    const Row *x = &sort->rows[i], *y = &sort->rows[j];
    if (n < x->prompt_length && n < y->prompt_length)
        return sort->tokens[x->first + (uint64_t)n] < sort->tokens[y->first + (uint64_t)n] ? -1 : 1;
    if (x->prompt_length != y->prompt_length) return x->prompt_length < y->prompt_length ? -1 : 1;
    return i < j ? -1 : i > j;
}

// In sorted order the rows that share a prefix of t+1 tokens are a run; one pass forward and one backward carry the
// smallest row of the run seen so far at every depth.
static Status find_owners(const Row *rows, const int32_t *tokens, int32_t count, int32_t *owners) {
    OwnerSort sort = {rows, tokens};
    int32_t *sorted = NULL, longest = 0;
    TRY(MEMORY_ALLOC(sorted, count, "dropout owners"));
    for (int32_t i = 0; i < count; i++) {
        sorted[i] = i;
        if (rows[i].prompt_length > longest) longest = rows[i].prompt_length;
    }
    qsort_r(sorted, (size_t)count, sizeof *sorted, compare_rows, &sort);
    int32_t *carried = NULL;
    Status status = MEMORY_ALLOC(carried, longest, "dropout owners");
    for (int pass = 0; pass < 2 && status == STATUS_OK; pass++)
        for (int32_t k = 0; k < count; k++) {
            const int32_t at = pass == 0 ? k : count - 1 - k, before = pass == 0 ? at - 1 : at + 1;
            const int32_t row = sorted[at], shared = k == 0 ? 0 : common_tokens(&sort, sorted[before], row);
            int32_t *own = owners + rows[row].first;
            for (int32_t t = 0; t < rows[row].prompt_length; t++) {
                int32_t best = pass == 0 ? row : own[t];
                carried[t] = t < shared && carried[t] < best ? carried[t] : best;
                own[t] = carried[t];
            }
        }
    free(carried);
    free(sorted);
    return status;
}

static Status gather_shares(Dataset *out, const Share *share, const DatasetOptions *options, Comm *comm) {
    enum { ROWS0, ROWS1, TOKENS, READ, BAD, DROPPED, NUMBERS };
    const int64_t mine[NUMBERS] = {share->row_count[0], share->row_count[1], share->token_count,
                                   share->counts.read,  share->counts.bad,   share->counts.dropped};
    int64_t *all = NULL, total[NUMBERS] = {0}, before[NUMBERS] = {0};
    TRY(MEMORY_ALLOC(all, comm->node_size * NUMBERS, "row counts"));
    Status status = comm_node_gather(comm, "the count of this machine's rows", mine, NUMBERS, all);
    for (int r = 0; r < comm->node_size; r++)
        for (int i = 0; i < NUMBERS; i++) {
            total[i] += all[r * NUMBERS + i];
            if (r < comm->node_rank) before[i] += all[r * NUMBERS + i];
        }
    free(all);
    TRY(status);
    out->counts.read = total[READ];
    out->counts.bad = total[BAD];
    out->counts.dropped = total[DROPPED];
    const int64_t count = total[ROWS0] + total[ROWS1];
    if (count > INT32_MAX) return error_set(STATUS_DATA, "%s: more than %d rows", out->path, INT32_MAX);
    out->row_count = (int32_t)count;
    out->count = (int32_t)(options->pairs ? total[ROWS0] : count);
    if (count == 0) {
        if (total[DROPPED] > 0)
            return error_set(STATUS_DATA,
                             "%s: all %lld rows have prompts of data.max_length (%lld) tokens or more; raise it",
                             out->path, (long long)total[DROPPED], (long long)options->max_length);
        return error_set(STATUS_DATA, "%s: no usable row%s%s", out->path, total[BAD] > 0 ? "; the first bad one: " : "",
                         share->counts.first_bad);
    }
    Row *rows;
    int32_t *tokens, *owners = NULL;
    TRY(comm_node_alloc(comm, (size_t)count * sizeof(Row), "rows", (void **)&rows));
    TRY(comm_node_alloc(comm, (size_t)total[TOKENS] * sizeof(int32_t), "tokens", (void **)&tokens));
    if (options->need_owners)
        TRY(comm_node_alloc(comm, (size_t)total[TOKENS] * sizeof(int32_t), "dropout owners", (void **)&owners));
    for (int list = 0; list < 2; list++) {
        Row *to = rows + (list == 0 ? before[ROWS0] : total[ROWS0] + before[ROWS1]);
        for (int64_t i = 0; i < share->row_count[list]; i++) {
            to[i] = share->row[list][i];
            to[i].first += (uint64_t)before[TOKENS];
            to[i].completion += (uint64_t)before[TOKENS];
        }
    }
    if (share->token_count > 0) // a rank of many may have no row
        memcpy(tokens + before[TOKENS], share->tokens, sizeof(int32_t) * (size_t)share->token_count);
    TRY(comm_node_barrier(comm, "the end of tokenising"));
    if (owners != NULL) {
        status = comm->node_rank == 0 ? find_owners(rows, tokens, out->count, owners) : STATUS_OK;
        TRY(comm_node_barrier(comm, "the end of tokenising"));
        TRY(status);
    }
    out->rows = rows;
    out->tokens = tokens;
    out->owners = owners;
    out->hash = hash_bytes(0, tokens, (size_t)total[TOKENS] * sizeof(int32_t));
    return STATUS_OK;
}

// --- order, pairing -------------------------------------------------------------------------------------------------

static bool same_prompt(const Dataset *d, int32_t i, int32_t j) {
    const Row *a = &d->rows[i], *b = &d->rows[j];
    return a->prompt_length == b->prompt_length &&
           memcmp(d->tokens + a->first, d->tokens + b->first, sizeof(int32_t) * (size_t)a->prompt_length) == 0;
}

// y' of every row of a batch: the nearest row before it, cyclically, with another prompt; else the one just before.
static void pair_batch(Dataset *d, int32_t batch) {
    const int32_t n = dataset_batch_rows(d, batch);
    const int32_t *rows = d->order + (int64_t)batch * d->batch_size;
    if (n == 1) { // the row before it in the order, whatever its batch
        int64_t at = rows - d->order;
        d->kl_row[rows[0]] = d->order[at > 0 ? at - 1 : d->count - 1];
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t found = rows[(i + n - 1) % n];
        for (int32_t back = 1; back < n; back++) {
            int32_t candidate = rows[(i + n - back) % n];
            if (same_prompt(d, rows[i], candidate)) continue;
            found = candidate;
            break;
        }
        d->kl_row[rows[i]] = found;
    }
}

static int32_t cut_length(const Dataset *d, const Row *prompt, const Row *completion) {
    return kept_length(d->max_length, prompt->prompt_length, completion->completion_length);
}

static Status order_and_pair(Dataset *d, const DatasetOptions *options) {
    d->batch_size = options->batch_size;
    d->batch_count = (int32_t)(((int64_t)d->count + d->batch_size - 1) / d->batch_size);
    TRY(MEMORY_ALLOC(d->order, d->count, "the order of the rows"));
    for (int32_t i = 0; i < d->count; i++) d->order[i] = i;
    if (options->shuffle) {
        Rng rng = rng_make(options->seed, RNG_DATA_ORDER, 0);
        rng_shuffle(&rng, d->order, d->count);
    }
    if (options->need_kl) {
        TRY(MEMORY_ALLOC(d->kl_row, d->count, "the pairing of the rows"));
        for (int32_t b = 0; b < d->batch_count; b++) pair_batch(d, b);
    }
    DatasetCounts *counts = &d->counts;
    for (int32_t i = 0; i < d->row_count; i++) {
        const Row *row = &d->rows[i];
        int32_t length = cut_length(d, row, row),
                other = d->kl_row == NULL ? 0 : cut_length(d, row, &d->rows[d->kl_row[i]]);
        counts->cut += length < row->completion_length;
        *(row->label ? &counts->desirable : &counts->undesirable) += 1;
        counts->tokens += row->prompt_length + length;
        counts->completion_tokens += length;
        int64_t longest = row->prompt_length + (length > other ? length : other);
        if (longest > counts->longest) counts->longest = longest;
        const double facts[] = {row->label,
                                (double)row->weight,
                                row->prompt_length,
                                row->completion_length,
                                i < d->count ? d->order[i] : -1,
                                d->kl_row == NULL ? -1 : d->kl_row[i]};
        d->hash = hash_bytes(d->hash, facts, sizeof facts);
    }
    const int64_t settings[] = {d->max_length, d->batch_size};
    d->hash = hash_bytes(d->hash, settings, sizeof settings);
    return STATUS_OK;
}

Status dataset_open(Dataset *out, const char *path, const Tokenizer *tokenizer, const DatasetOptions *options,
                    Comm *comm) {
    *out = (Dataset){.path = path, .pairs = options->pairs, .max_length = options->max_length};
    JsonlFile file = {0};
    Status status = comm_agree(comm, jsonl_open(&file, path));
    Share share = {0};
    if (status == STATUS_OK) {
        const int64_t begin = file.line_count * comm->node_rank / comm->node_size;
        const int64_t end = file.line_count * (comm->node_rank + 1) / comm->node_size;
        for (int64_t line = begin; line < end && status == STATUS_OK; line++)
            status = add_line(&share, &file, line, tokenizer, options);
        share.counts.read = end - begin;
        status = comm_agree(comm, status);
    }
    jsonl_close(&file);
    if (status == STATUS_OK) status = comm_agree(comm, gather_shares(out, &share, options, comm));
    snprintf(out->counts.first_bad, sizeof out->counts.first_bad, "%s", share.counts.first_bad);
    share_free(&share);
    TRY(status);
    return order_and_pair(out, options);
}

void dataset_close(Dataset *dataset) {
    free(dataset->order);
    free(dataset->kl_row);
    *dataset = (Dataset){0};
}

// --- batches --------------------------------------------------------------------------------------------------------

int32_t dataset_batch_rows(const Dataset *dataset, int32_t batch) {
    int64_t left = dataset->count - (int64_t)batch * dataset->batch_size;
    return left < dataset->batch_size ? (int32_t)left : dataset->batch_size;
}

void dataset_batch(const Dataset *d, int32_t batch, BatchRow *rows) {
    const int32_t n = dataset_batch_rows(d, batch);
    for (int32_t i = 0; i < n; i++) {
        const int32_t index = d->order[(int64_t)batch * d->batch_size + i];
        const Row *row = &d->rows[index];
        rows[i] = (BatchRow){.row = index,
                             .prompt = d->tokens + row->first,
                             .prompt_length = row->prompt_length,
                             .owner = d->owners == NULL ? NULL : d->owners + row->first,
                             .completion_count = 1};
        rows[i].completion[0] = (Completion){d->tokens + row->completion, cut_length(d, row, row), ROLE_POLICY};
        if (d->pairs) rows[i].rejected_row = d->count + index;
        const int32_t second = d->pairs ? rows[i].rejected_row : d->kl_row != NULL ? d->kl_row[index] : -1;
        if (second < 0) continue;
        const Row *other = &d->rows[second];
        rows[i].completion[rows[i].completion_count++] =
            (Completion){d->tokens + other->completion, cut_length(d, row, other), d->pairs ? ROLE_REJECTED : ROLE_KL};
    }
}

void dataset_epoch_order(const Dataset *dataset, bool shuffle, uint64_t seed, int64_t epoch, int32_t *visit) {
    for (int32_t b = 0; b < dataset->batch_count; b++) visit[b] = b;
    if (!shuffle || epoch == 0) return;
    Rng rng = rng_make(seed, RNG_EPOCH_ORDER, (uint32_t)epoch);
    rng_shuffle(&rng, visit, dataset->batch_count);
}
