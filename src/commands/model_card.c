// The text of a model card. Its head is YAML as https://huggingface.co/docs/hub/model-cards wants it: the Hub refuses a
// card that names a base model or a license which it does not know, so these lines are comments where they are unknown.
#include "src/commands/model_card.h"

#include "io/files.h"
#include "io/jsonl.h"
#include "io/metrics.h"
#include "src/base/log.h"
#include "src/base/version.h"
#include "src/train/kto.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CARD_BYTES_MAX (8u << 20) // of the base model's card

bool model_card_hub_name(const char *name) {
    const char *slash = strchr(name, '/');
    if (slash == NULL || slash == name || slash[1] == '\0' || name[0] == '.' || slash[1] == '.') return false;
    for (const char *c = name; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && strchr("-_.", *c) == NULL && c != slash) return false;
    return true;
}

// --- head -----------------------------------------------------------------------------------------------------------

// The lines on the license in the head of the base model's card. Whether there are any.
static bool put_base_license(FILE *to, const char *base_dir) {
    char path[PATH_MAX], *text = NULL;
    snprintf(path, sizeof path, "%s/README.md", base_dir);
    if (!file_exists(path) || file_read(path, CARD_BYTES_MAX, &text, NULL) != STATUS_OK) {
        error_clear();
        return false;
    }
    bool found = false, inside = false;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        line[strcspn(line, "\r")] = '\0';
        if (strcmp(line, "---") == 0) {
            if (inside) break;
            inside = true;
        } else if (!inside) {
            break; // no head
        } else if (strncmp(line, "license: ", 9) == 0 || strncmp(line, "license_name: ", 14) == 0 ||
                   strncmp(line, "license_link: ", 14) == 0) {
            fprintf(to, "%s\n", line);
            found = true;
        }
    }
    free(text);
    return found;
}

static void put_head(FILE *to, const ModelCard *card, const char *loss) {
    fputs("---\n", to);
    if (card->base_on_hub)
        fprintf(to, "base_model: %s\n", card->base);
    else
        fputs("# base_model: OWNER/NAME on the Hub (kto export --base-name)\n", to);
    fprintf(to, "library_name: %s\npipeline_tag: text-generation\n", card->merged ? "transformers" : "peft");
    if (!put_base_license(to, card->base_dir)) fputs("# license: fill in; the base model's license applies\n", to);
    fprintf(to, "tags:\n- kto.c\n- %s\n%s---\n\n", loss, card->merged ? "" : "- lora\n");
}

// --- data -----------------------------------------------------------------------------------------------------------

typedef struct RowCount {
    int64_t rows, desirable, undesirable, bad, messages;
} RowCount;

static Status count_rows(const char *path, RowCount *out) {
    JsonlFile file;
    TRY(jsonl_open(&file, path));
    for (int64_t i = 0; i < file.line_count; i++) {
        JsonlRow row;
        const bool good = jsonl_row(&file, i, &row) == STATUS_OK;
        if (good) {
            out->rows++;
            out->desirable += row.paired || row.label;
            out->undesirable += row.paired || !row.label;
            out->messages += row.prompt.text == NULL;
        } else {
            out->bad++; // a run with data.skip_bad_rows
            error_clear();
        }
        jsonl_row_free(&row);
    }
    jsonl_close(&file);
    return STATUS_OK;
}

// The last name of a path, also of one that ends with slashes.
static char *last_name(char out[PATH_MAX], const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    snprintf(out, PATH_MAX, "%.*s", (int)(end - begin), path + begin);
    return out;
}

static void put_rows(FILE *to, const char *use, const char *path, const RowCount *count) {
    char name[PATH_MAX];
    if (path[0] == '\0') return;
    if (count->rows == 0)
        fprintf(to, "| %s | `%s` | | | |\n", use, last_name(name, path));
    else
        fprintf(to, "| %s | `%s` | %lld | %lld | %lld |\n", use, last_name(name, path), (long long)count->rows,
                (long long)count->desirable, (long long)count->undesirable);
}

static void put_data(FILE *to, const ModelCard *card, const RowCount *train) {
    RowCount eval = {0};
    const char *path = card->config->data.eval;
    if (path[0] != '\0' && count_rows(path, &eval) != STATUS_OK) {
        log_warning("%s; the model card leaves its rows out", error_text());
        error_clear();
    }
    fputs("## Data\n\n| | file | rows | desirable | undesirable |\n|---|---|---:|---:|---:|\n", to);
    put_rows(to, "training", card->config->data.train, train);
    put_rows(to, "evaluation", path, &eval);
    fputs("\n", to);
}

// --- results --------------------------------------------------------------------------------------------------------

// The last row up to `step` (-1: of all). Whether there is one.
static bool last_row(const char *path, MetricsGroup group, int64_t step, MetricsRow *out) {
    MetricsRow *rows = NULL;
    int64_t count = 0;
    if (metrics_read(path, group, &rows, &count) != STATUS_OK) {
        log_warning("%s; the model card leaves its figures out", error_text());
        error_clear();
        return false;
    }
    while (count > 0 && step >= 0 && rows[count - 1].step > step) count--;
    if (count > 0) *out = rows[count - 1];
    free(rows);
    return count > 0;
}

static void put_figure(FILE *to, double value) {
    if (!isfinite(value))
        fputs(" |", to); // no rows of that label
    else
        fprintf(to, value == rint(value) ? " %.0f |" : " %.4g |", value);
}

static void put_results(FILE *to, const ModelCard *card) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/metrics.h5", card->run_dir);
    if (!file_exists(path)) return;
    MetricsRow train, eval;
    const bool has_train = last_row(path, METRICS_TRAIN, card->step, &train);
    const bool has_eval = has_train && last_row(path, METRICS_EVAL, card->step, &eval);
    if (!has_train) return;
    fprintf(to, "## Results\n\n| | training, step %lld |", (long long)train.step);
    if (has_eval) fprintf(to, " evaluation, step %lld |", (long long)eval.step);
    fprintf(to, "\n|---|---:|%s\n", has_eval ? "---:|" : "");
    static const struct {
        const char *name;
        size_t offset;
    } figures[] = {
        {"loss", offsetof(MetricsRow, loss)},
        {"reference point z0 (kl)", offsetof(MetricsRow, kl)},
        {"reward of desirable rows", offsetof(MetricsRow, rewards_chosen)},
        {"reward of undesirable rows", offsetof(MetricsRow, rewards_rejected)},
        {"reward margin", offsetof(MetricsRow, rewards_margins)},
        {"reward accuracy", offsetof(MetricsRow, rewards_accuracies)},
        {"log-probability of desirable rows", offsetof(MetricsRow, logps_chosen)},
        {"log-probability of undesirable rows", offsetof(MetricsRow, logps_rejected)},
        {"entropy", offsetof(MetricsRow, entropy)},
        {"epochs", offsetof(MetricsRow, epoch)},
        {"tokens seen", offsetof(MetricsRow, num_tokens)},
    };
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        fprintf(to, "| %s |", figures[i].name);
        put_figure(to, *(const double *)((const char *)&train + figures[i].offset));
        if (has_eval) put_figure(to, *(const double *)((const char *)&eval + figures[i].offset));
        fputs("\n", to);
    }
    fprintf(
        to,
        "\nTraining: the batch of that step.%s Rewards are beta times the log-ratio to the base model; definitions are "
        "TRL's.\n\n",
        has_eval ? " Evaluation: the mean over all rows." : "");
}

// --- loading --------------------------------------------------------------------------------------------------------

static void put_use(FILE *to, const ModelCard *card, bool messages) {
    char folder[PATH_MAX];
    last_name(folder, card->folder);
    fputs("## Use\n\n```python\n", to);
    if (card->merged)
        fprintf(to,
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                "name = \"%s\"  # this folder, or its name on the Hub\n"
                "tokenizer = AutoTokenizer.from_pretrained(name)\n"
                "model = AutoModelForCausalLM.from_pretrained(name, dtype=\"auto\")\n",
                folder);
    else
        fprintf(to,
                "from peft import PeftModel\n"
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                "base = \"%s\"\n"
                "tokenizer = AutoTokenizer.from_pretrained(base)\n"
                "model = AutoModelForCausalLM.from_pretrained(base, dtype=\"auto\")\n"
                "model = PeftModel.from_pretrained(model, \"%s\")  # this folder, or its name on the Hub\n",
                card->base, folder);
    if (messages)
        fputs("\nprompt = tokenizer.apply_chat_template([{\"role\": \"user\", \"content\": \"...\"}], tokenize=False,\n"
              "                                       add_generation_prompt=True)\n"
              "inputs = tokenizer(prompt, return_tensors=\"pt\", add_special_tokens=False)\n",
              to);
    else
        fputs("\ninputs = tokenizer(\"...\", return_tensors=\"pt\")\n", to);
    fputs("print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0], skip_special_tokens=True))\n```\n\n",
          to);
    if (messages && !card->base_has_template)
        fprintf(to,
                "The tokenizer has no chat template of its own; the rows were put together with kto.c's `%s`, which "
                "must be given to it.\n\n",
                card->config->data.chat_template);
}

static void put_title(FILE *to, const ModelCard *card, const char *loss) {
    char real[PATH_MAX], name[PATH_MAX];
    fprintf(to, "# %s\n\n", last_name(name, realpath(card->run_dir, real) != NULL ? real : card->run_dir));
    fprintf(to,
            card->merged ? "A language model: %s%s%s%s%s with a LoRA adapter merged into its weights, in %s.\n"
                         : "A LoRA adapter for %s%s%s%s%s, in %s.\n",
            card->base_on_hub ? "[" : "`", card->base, card->base_on_hub ? "](https://huggingface.co/" : "`",
            card->base_on_hub ? card->base : "", card->base_on_hub ? ")" : "", card->dtype);
    const Loss *paper = kto_loss((LossType)card->config->kto.loss_type);
    fprintf(to,
            "Trained by kto.c %s (%s) with the loss `%s` ([%s](https://arxiv.org/abs/%s)), rank %lld and alpha %g, ",
            KTO_VERSION, KTO_GIT_COMMIT, loss, paper->title, paper->arxiv, (long long)card->config->lora.r,
            card->config->lora.alpha);
    if (card->step >= 0) fprintf(to, "to step %lld ", (long long)card->step);
    fprintf(to, "(adapter %016llx).\n\n", (unsigned long long)card->adapter_hash);
}

static void put_settings(FILE *to, const char *settings) {
    fputs("## Settings\n\n", to);
    for (const char *line = settings; *line != '\0';) {
        const size_t length = strcspn(line, "\n");
        fprintf(to, "    %.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

Status model_card_write(const char *path, const ModelCard *card) {
    RowCount train = {0};
    if (count_rows(card->config->data.train, &train) != STATUS_OK) {
        log_warning("%s; the model card leaves its rows out", error_text());
        error_clear();
    }
    const bool messages = train.rows > 0 ? train.messages > 0 : card->base_has_template;
    char *text = NULL, *settings = config_text(card->config);
    size_t size = 0;
    FILE *to = settings == NULL ? NULL : open_memstream(&text, &size);
    if (to == NULL) {
        free(settings);
        return error_set(STATUS_FAILED, "%s: out of memory", path);
    }
    const char *loss = config_word(card->config, "kto.loss_type");
    put_head(to, card, loss);
    put_title(to, card, loss);
    put_use(to, card, messages);
    put_data(to, card, &train);
    put_results(to, card);
    put_settings(to, settings);
    free(settings);
    Status status =
        fclose(to) == 0 ? file_write_durable(path, text, size) : error_set(STATUS_FAILED, "%s: out of memory", path);
    free(text);
    return status;
}
