// Pre-tokenizers, as a chain in which each piece is handed on as soon as it is found. The behaviours are those of the
// tokenizers library's NormalizedString::split. Reading them from tokenizer.json is io/tokenizer_json.c's.
#include "io/pretokenizer.h"

#include <string.h>

typedef struct Run {
    const Pretokenizer *p;
    PatternScratch *scratch;
    TextBuffer *buffers;
    PretokenizerEmit emit;
    void *context;
} Run;

// Pieces of one step's text on their way to the next step. `held`: a piece that the next one may still join.
typedef struct Cut {
    const Run *run;
    const PretokenizerStep *step;
    int index;
    const char *text;
    bool first, held, previous_match;
    size_t start, end; // of the held piece
} Cut;

void pretokenizer_free(Pretokenizer *p) {
    for (int i = 0; i < p->count; i++) {
        text_buffer_free(&p->step[i].space);
        text_buffer_free(&p->step[i].prefix);
        pattern_close(p->step[i].pattern);
    }
    *p = (Pretokenizer){0};
}

static Status run_step(const Run *run, int index, const char *text, size_t bytes, bool first);

static Status hand_on(const Cut *cut, size_t start, size_t end) {
    if (start == end) return STATUS_OK;
    if (cut->index + 1 == cut->run->p->count) return cut->run->emit(cut->run->context, cut->text + start, end - start);
    return run_step(cut->run, cut->index + 1, cut->text + start, end - start, cut->first && start == 0);
}

static Status release(Cut *cut) {
    const bool held = cut->held;
    cut->held = false;
    return held ? hand_on(cut, cut->start, cut->end) : STATUS_OK;
}

// The next piece of the text, which lies behind the ones before it.
static Status take(Cut *cut, size_t start, size_t end, bool match) {
    match = match != cut->step->invert;
    const SplitBehavior behavior = cut->step->behavior;
    if (behavior == SPLIT_ISOLATED) return hand_on(cut, start, end);
    if (behavior == SPLIT_REMOVED) return match ? STATUS_OK : hand_on(cut, start, end);
    bool joins;
    if (behavior == SPLIT_CONTIGUOUS)
        joins = match == cut->previous_match;
    else if (behavior == SPLIT_MERGED_WITH_PREVIOUS)
        joins = match && !cut->previous_match;
    else
        joins = !match && cut->previous_match;
    cut->previous_match = match;
    if (cut->held && joins) {
        cut->end = end;
        return STATUS_OK;
    }
    TRY(release(cut));
    cut->held = true;
    cut->start = start;
    cut->end = end;
    return STATUS_OK;
}

static Status split(const Run *run, int index, const char *text, size_t bytes, bool first) {
    Cut cut = {.run = run, .step = &run->p->step[index], .index = index, .text = text, .first = first};
    if (cut.step->pattern == NULL) return hand_on(&cut, 0, bytes);
    PatternSearch search = pattern_search(cut.step->pattern, run->scratch, text, bytes);
    size_t from = 0;
    for (bool found = true; found;) {
        TRY(pattern_next(&search, &found));
        if (!found) break;
        if (from != search.start) TRY(take(&cut, from, search.start, false));
        TRY(take(&cut, search.start, search.end, true));
        from = search.end;
    }
    if (from != bytes) TRY(take(&cut, from, bytes, false));
    return release(&cut);
}

static bool begins_with(const char *text, size_t bytes, const TextBuffer *prefix) {
    return bytes >= prefix->bytes && memcmp(text, prefix->text, prefix->bytes) == 0;
}

static Status put_spaces(const char *text, size_t bytes, const TextBuffer *space, TextBuffer *to) {
    for (size_t from = 0; from < bytes;) {
        const char *found = memchr(text + from, ' ', bytes - from);
        const size_t end = found == NULL ? bytes : (size_t)(found - text);
        TRY(text_buffer_add(to, text + from, end - from));
        if (found != NULL) TRY(text_buffer_add(to, space->text, space->bytes));
        from = end + 1;
    }
    return STATUS_OK;
}

static Status run_step(const Run *run, int index, const char *text, size_t bytes, bool first) {
    const PretokenizerStep *step = &run->p->step[index];
    const bool prepend = step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && first);
    const bool respaced = step->space.bytes > 0;
    const bool begins = prepend && (begins_with(text, bytes, &step->prefix) || (respaced && text[0] == ' '));
    if (!respaced && (!prepend || begins)) return split(run, index, text, bytes, first);
    TextBuffer *to = &run->buffers[index];
    to->bytes = 0;
    if (prepend && !begins) TRY(text_buffer_add(to, step->prefix.text, step->prefix.bytes));
    if (respaced)
        TRY(put_spaces(text, bytes, &step->space, to));
    else
        TRY(text_buffer_add(to, text, bytes));
    return split(run, index, to->text, to->bytes, first);
}

Status pretokenizer_run(const Pretokenizer *p, PatternScratch *scratch, TextBuffer buffers[PRETOKENIZER_STEPS_MAX],
                        const char *text, size_t bytes, bool first, PretokenizerEmit emit, void *context) {
    if (bytes == 0) return STATUS_OK;
    if (p->count == 0) return emit(context, text, bytes);
    const Run run = {p, scratch, buffers, emit, context};
    return run_step(&run, 0, text, bytes, first);
}
