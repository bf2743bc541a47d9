// What the demo achieved: shares of scathing and of well-formed reviews before and after, samples side by side, the
// evaluation curves drawn in the terminal, and one JSON object as the last line.
//
//     demo_report RUN_DIR BASE.jsonl TUNED.jsonl [GRAMMAR.txt]
//
// BASE and TUNED hold what `kto sample` wrote for the same prompts. A review is well-formed only if the grammar file
// (default configs/demo/grammar.txt, which also explains the format) makes it for its title, letter by letter; it is
// scathing only if a [scathing] line does. The sampling itself and the training are left to `kto`.
#include "io/files.h"
#include "io/metrics.h"
#include "src/base/chart.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/status.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTIONS_MAX = 32, LINES_MAX = 256, GRAMMAR_BYTES_MAX = 1 << 20, SHOWN_SAMPLES = 5 };

typedef struct Section {
    const char *name; // "title", "kind", "scathing" or "slot NAME"
    const char *lines[LINES_MAX];
    int count;
} Section;

typedef struct Grammar {
    char *text; // what all strings point into
    Section sections[SECTIONS_MAX];
    int count;
} Grammar;

// What the slots of a title hold; NULL where the title has no such slot. Indexed like Grammar.sections.
typedef struct Binding {
    const char *value[SECTIONS_MAX];
} Binding;

typedef enum Verdict { MALFORMED, KIND, SCATHING } Verdict;

typedef struct Sample {
    char *title, *review;
    Verdict verdict;
} Sample;

typedef struct Samples {
    Sample *rows; // [count]
    int count, scathing, well_formed;
} Samples;

// ---- the grammar ----

static Status grammar_read(Grammar *out, const char *path) {
    size_t bytes;
    TRY(file_read(path, GRAMMAR_BYTES_MAX, &out->text, &bytes));
    Section *section = NULL;
    int line_number = 0;
    char *rest = out->text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        line_number++;
        size_t length = strlen(line);
        if (length == 0 || line[0] == '#') continue;
        if (line[0] == '[' && line[length - 1] == ']') {
            if (out->count == SECTIONS_MAX)
                return error_set(STATUS_DATA, "%s:%d: more than %d sections; merge some", path, line_number,
                                 SECTIONS_MAX);
            section = &out->sections[out->count++];
            line[length - 1] = '\0';
            section->name = line + 1;
        } else if (!section) {
            return error_set(STATUS_DATA, "%s:%d: a line before the first [section]; add a section", path, line_number);
        } else if (section->count == LINES_MAX) {
            return error_set(STATUS_DATA, "%s:%d: more than %d lines in [%s]; shorten it", path, line_number, LINES_MAX,
                             section->name);
        } else {
            section->lines[section->count++] = line;
        }
    }
    return STATUS_OK;
}

static const Section *section_find(const Grammar *grammar, const char *prefix, const char *name, size_t name_length) {
    size_t prefix_length = strlen(prefix);
    for (int i = 0; i < grammar->count; i++) {
        const char *candidate = grammar->sections[i].name;
        if (strncmp(candidate, prefix, prefix_length) == 0 && strlen(candidate) == prefix_length + name_length &&
            strncmp(candidate + prefix_length, name, name_length) == 0)
            return &grammar->sections[i];
    }
    return NULL;
}

// Whether `form` can make exactly `text`. A bound slot must hold its value; another may hold any of its lines, and is
// bound by the match when `bind` (titles) or free to differ at its next place when not (reviews).
static bool form_matches(const Grammar *grammar, const char *form, const char *text, Binding *binding, bool bind) {
    for (; *form != '{'; form++, text++) {
        if (*form != *text) return false;
        if (*form == '\0') return true;
    }
    const char *close = strchr(form, '}');
    const Section *slot = close ? section_find(grammar, "slot ", form + 1, (size_t)(close - form - 1)) : NULL;
    if (!slot) return false;
    const char **bound = &binding->value[slot - grammar->sections];
    if (*bound) {
        size_t length = strlen(*bound);
        return strncmp(text, *bound, length) == 0 && form_matches(grammar, close + 1, text + length, binding, bind);
    }
    for (int i = 0; i < slot->count; i++) {
        size_t length = strlen(slot->lines[i]);
        if (strncmp(text, slot->lines[i], length) != 0) continue;
        if (bind) *bound = slot->lines[i];
        if (form_matches(grammar, close + 1, text + length, binding, bind)) return true;
        *bound = NULL;
    }
    return false;
}

static bool section_matches(const Grammar *grammar, const char *name, const char *text, Binding *binding, bool bind) {
    const Section *section = section_find(grammar, "", name, strlen(name));
    for (int i = 0; section && i < section->count; i++)
        if (form_matches(grammar, section->lines[i], text, binding, bind)) return true;
    return false;
}

// ---- the samples ----

// The title is the prompt, or the content of its last message.
static const char *prompt_title(const json_t *prompt) {
    if (json_is_array(prompt)) prompt = json_object_get(json_array_get(prompt, json_array_size(prompt) - 1), "content");
    return json_string_value(prompt);
}

static Status sample_judge(const Grammar *grammar, const char *path, int line, Sample *sample) {
    Binding binding = {0};
    if (!section_matches(grammar, "title", sample->title, &binding, true))
        return error_set(STATUS_DATA, "%s:%d: the grammar has no title \"%s\"; sample from the demo's titles.jsonl",
                         path, line, sample->title);
    if (section_matches(grammar, "scathing", sample->review, &binding, false))
        sample->verdict = SCATHING;
    else if (section_matches(grammar, "kind", sample->review, &binding, false))
        sample->verdict = KIND;
    return STATUS_OK;
}

static Status sample_read(const Grammar *grammar, const char *path, FILE *file, int line, Sample *out) {
    json_error_t error;
    json_t *row = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
    if (!row) return error_set(STATUS_DATA, "%s:%d: %s; write the file with `kto sample`", path, line, error.text);
    const char *title = prompt_title(json_object_get(row, "prompt"));
    const char *review = json_string_value(json_object_get(row, "completion"));
    Status status = STATUS_OK;
    if (!title || !review)
        status =
            error_set(STATUS_DATA, "%s:%d: no prompt or no completion; write the file with `kto sample`", path, line);
    else if (!(out->title = strdup(title)) || !(out->review = strdup(review)))
        status = error_set(STATUS_FAILED, "%s: out of memory", path);
    else
        status = sample_judge(grammar, path, line, out);
    json_decref(row);
    return status;
}

static int skip_blanks(FILE *file) {
    int c;
    do c = fgetc(file);
    while (c == ' ' || c == '\t' || c == '\r' || c == '\n');
    return ungetc(c, file);
}

static Status samples_read(const Grammar *grammar, const char *path, Samples *out) {
    FILE *file = fopen(path, "r");
    if (!file) return error_set(STATUS_DATA, "%s: %s; write it with `kto sample`", path, strerror(errno));
    Status status = STATUS_OK;
    while (status == STATUS_OK && skip_blanks(file) != EOF) {
        Sample *rows = realloc(out->rows, sizeof *rows * ((size_t)out->count + 1));
        if (!rows) {
            status = error_set(STATUS_FAILED, "%s: out of memory", path);
            break;
        }
        out->rows = rows;
        Sample *sample = &rows[out->count++];
        *sample = (Sample){0};
        status = sample_read(grammar, path, file, out->count, sample);
        out->scathing += sample->verdict == SCATHING;
        out->well_formed += sample->verdict != MALFORMED;
    }
    fclose(file);
    if (status == STATUS_OK && out->count == 0)
        status = error_set(STATUS_DATA, "%s: no samples; write it with `kto sample`", path);
    return status;
}

static void samples_free(Samples *samples) {
    for (int i = 0; i < samples->count; i++) {
        free(samples->rows[i].title);
        free(samples->rows[i].review);
    }
    free(samples->rows);
}

// ---- what is printed ----

static void print_share(const char *name, int part_before, int count_before, int part_after, int count_after) {
    double before = (double)part_before / count_before, after = (double)part_after / count_after;
    printf("  %-12s %5.1f %% +- %.1f   ->   %5.1f %% +- %.1f\n", name, 100 * before,
           100 * sqrt(before * (1 - before) / count_before), 100 * after,
           100 * sqrt(after * (1 - after) / count_after));
}

// The titles shown had a kind review before: the others, sampled with the same random numbers, mostly stay as they
// were.
static void print_samples(const Samples *before, const Samples *after) {
    int count = before->count < after->count ? before->count : after->count;
    printf("\n  titles that got a kind review before training\n");
    for (int i = 0, shown = 0; i < count && shown < SHOWN_SAMPLES; i++) {
        const Sample *a = &before->rows[i], *b = &after->rows[i];
        if (a->verdict != KIND || strcmp(a->title, b->title) != 0) continue;
        printf("\n  %s\n    before: %s\n    after:  %s%s\n", a->title, a->review, b->review,
               b->verdict == MALFORMED ? "  (malformed)" : "");
        shown++;
    }
}

static Status print_curves(const MetricsRow *eval, int64_t count) {
    double *step = NULL, *loss = NULL, *margin = NULL;
    const ChartStyle style = chart_style(stdout, false);
    Status status = STATUS_OK;
    TRY_GOTO(MEMORY_ALLOC(step, count, "the curves"), done);
    TRY_GOTO(MEMORY_ALLOC(loss, count, "the curves"), done);
    TRY_GOTO(MEMORY_ALLOC(margin, count, "the curves"), done);
    for (int64_t i = 0; i < count; i++) {
        step[i] = (double)eval[i].step;
        loss[i] = eval[i].loss;
        margin[i] = eval[i].rewards_margins;
    }
    const ChartSeries series[] = {{.x = step, .y = loss, .count = count, .form = CHART_LINE_POINTS},
                                  {.x = step, .y = margin, .count = count, .form = CHART_LINE_POINTS}};
    const Chart charts[] = {{"validation loss", &series[0], 1},
                            {"reward margin on the validation rows (desirable - undesirable)", &series[1], 1}};
    printf("\n");
    status = chart_draw(charts, 2, &style, stdout);
done:
    free(step);
    free(loss);
    free(margin);
    return status;
}

// JSON has no NaN; a figure that is missing is null.
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static Status print_json(const Samples *before, const Samples *after, const MetricsRow *eval, int64_t eval_count,
                         const MetricsRow *train, int64_t train_count) {
    double seconds = 0;
    for (int64_t i = 0; i < train_count; i++) seconds += train[i].step_seconds;
    json_t *object = json_pack(
        "{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:I}", "scathing_before", number((double)before->scathing / before->count),
        "scathing_after", number((double)after->scathing / after->count), "wellformed_before",
        number((double)before->well_formed / before->count), "wellformed_after",
        number((double)after->well_formed / after->count), "eval_loss_first", number(eval_count ? eval[0].loss : NAN),
        "eval_loss_last", number(eval_count ? eval[eval_count - 1].loss : NAN), "reward_margin_last",
        number(eval_count ? eval[eval_count - 1].rewards_margins : NAN), "train_seconds", number(seconds), "steps",
        (json_int_t)(train_count ? train[train_count - 1].step : 0));
    char *line = object ? json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(object);
    if (!line) return error_set(STATUS_FAILED, "out of memory while writing the figures");
    printf("\n%s\n", line);
    free(line);
    return STATUS_OK;
}

static Status report(const char *run_dir, const char *base_path, const char *tuned_path, const char *grammar_path) {
    static Grammar grammar; // zeroed, too large for the stack
    Samples before = {0}, after = {0};
    MetricsRow *train = NULL, *eval = NULL;
    int64_t train_count = 0, eval_count = 0;
    char metrics_path[4096];
    Status status;
    if (snprintf(metrics_path, sizeof metrics_path, "%s/metrics.h5", run_dir) >= (int)sizeof metrics_path)
        return error_set(STATUS_USAGE, "%s: path too long", run_dir);
    TRY_GOTO(grammar_read(&grammar, grammar_path), done);
    TRY_GOTO(samples_read(&grammar, base_path, &before), done);
    TRY_GOTO(samples_read(&grammar, tuned_path, &after), done);
    TRY_GOTO(metrics_read(metrics_path, METRICS_TRAIN, &train, &train_count), done);
    TRY_GOTO(metrics_read(metrics_path, METRICS_EVAL, &eval, &eval_count), done);

    if (eval_count > 0) TRY_GOTO(print_curves(eval, eval_count), done);
    print_samples(&before, &after);
    printf("\n  reviews of %d unseen titles, before -> after\n", before.count);
    print_share("scathing", before.scathing, before.count, after.scathing, after.count);
    print_share("well-formed", before.well_formed, before.count, after.well_formed, after.count);
    TRY_GOTO(print_json(&before, &after, eval, eval_count, train, train_count), done);
    if (fflush(stdout) != 0) status = error_set(STATUS_FAILED, "standard output: %s", strerror(errno));
done:
    samples_free(&before);
    samples_free(&after);
    free(train);
    free(eval);
    free(grammar.text);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: demo_report RUN_DIR BASE.jsonl TUNED.jsonl [GRAMMAR.txt]\n");
        return STATUS_USAGE;
    }
    Status status = report(argv[1], argv[2], argv[3], argc == 5 ? argv[4] : "configs/demo/grammar.txt");
    if (status != STATUS_OK) log_error(error_text());
    return status;
}
