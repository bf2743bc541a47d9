// The losses and their metrics. Sums run in row order, so that every rank and every rank count gets the same numbers.
#include "src/train/kto.h"

#include <assert.h>
#include <math.h>

static double sigmoid(double x) {
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

// -log sigmoid(x), without overflow on either side.
static double minus_log_sigmoid(double x) {
    return x >= 0 ? log1p(exp(-x)) : log1p(exp(x)) - x;
}

static double kto_value(double x) {
    return sigmoid(-x); // 1 - sigmoid(x)
}

static double kto_slope(double scale, double x) {
    const double s = sigmoid(x);
    return -scale * s * (1 - s);
}

static double dpo_value(double x) {
    return minus_log_sigmoid(x);
}

static double dpo_slope(double scale, double x) {
    return -scale * sigmoid(-x);
}

static const Loss losses[] = {
    [LOSS_KTO] = {"KTO", "2402.01306", true, kto_value, kto_slope},
    [LOSS_APO_ZERO_UNPAIRED] = {"APO", "2408.06266", false, kto_value, kto_slope},
    [LOSS_DPO] = {"DPO", "2305.18290", false, dpo_value, dpo_slope},
};
static_assert(sizeof losses / sizeof *losses == LOSS_TYPES, "every loss that a configuration may name has a row");

const Loss *kto_loss(LossType type) {
    return &losses[type];
}

int32_t kto_completions(const KtoOptions *options) {
    return loss_takes_pairs(options->loss) ? 2 : 1;
}

double kto_z0(const KtoOptions *options, const KtoRecord *records, int32_t count) {
    if (!kto_loss(options->loss)->needs_z0) return 0;
    double sum = 0;
    for (int32_t i = 0; i < count; i++) sum += records[i].logp_kl - records[i].ref_logp_kl;
    double mean = sum / count;
    return mean < 0 ? 0 : mean; // a NaN stays one and is reported as a bad step
}

static double log_ratio(const KtoRecord *record) {
    return record->logp - record->ref_logp;
}

static double margin(const KtoOptions *options, const KtoRecord *row, double z0) {
    if (loss_takes_pairs(options->loss)) return options->beta * (log_ratio(&row[0]) - log_ratio(&row[1]));
    double distance = log_ratio(row) - z0;
    return options->beta * (row->desirable ? distance : -distance);
}

static double row_weight(const KtoOptions *options, const KtoRecord *row) {
    if (loss_takes_pairs(options->loss)) return row->weight;
    return row->weight * (row->desirable ? options->desirable_weight : options->undesirable_weight);
}

double kto_row_loss(const KtoOptions *options, const KtoRecord *row, double z0) {
    return row_weight(options, row) * kto_loss(options->loss)->value(margin(options, row, z0));
}

double kto_row_gradient(const KtoOptions *options, const KtoRecord *row, double z0, int32_t count) {
    const double sign = row->desirable ? 1 : -1; // of d margin / d logp; a pair's first record is its chosen one
    const double scale = sign * row_weight(options, row) * options->beta;
    return kto_loss(options->loss)->slope(scale, margin(options, row, z0)) / count;
}

void kto_metrics(const KtoOptions *options, const KtoRecord *records, int32_t count, double z0, MetricsRow *out) {
    double loss = 0, entropy = 0, tokens[2] = {0}, reward[2] = {0}, logp[2] = {0}, logit[2] = {0};
    int32_t rows[2] = {0}, right = 0; // index 1: desirable ("chosen")
    const int32_t completions = kto_completions(options);
    for (int32_t i = 0; i < count; i++) {
        const KtoRecord *row = &records[i * completions];
        loss += kto_row_loss(options, row, z0);
        right += margin(options, row, z0) > 0;
        for (const KtoRecord *record = row; record < row + completions; record++) {
            int own = record->desirable;
            entropy += record->entropy_sum;
            rows[own]++;
            reward[own] += options->beta * log_ratio(record);
            logp[own] += record->logp;
            logit[own] += record->logit_sum;
            tokens[own] += record->scored_tokens;
        }
    }
    // 0/0 is NaN: a metric without rows.
    out->loss = loss / count;
    out->kl = z0;
    out->entropy = entropy / (tokens[0] + tokens[1]);
    out->rewards_chosen = reward[1] / rows[1];
    out->rewards_rejected = reward[0] / rows[0];
    out->rewards_margins = out->rewards_chosen - out->rewards_rejected;
    out->rewards_accuracies = (double)right / count;
    out->logps_chosen = logp[1] / rows[1];
    out->logps_rejected = logp[0] / rows[0];
    out->logits_chosen = logit[1] / tokens[1];
    out->logits_rejected = logit[0] / tokens[0];
    out->rows = count;
    out->rows_chosen = rows[1];
    out->scored_tokens = tokens[0] + tokens[1];
}

double kto_auto_weight(int64_t own, int64_t other, double other_weight) {
    return own > 0 && other > 0 ? (double)other * other_weight / (double)own : 1;
}

bool kto_weights_in_range(const KtoOptions *options, int64_t desirable, int64_t undesirable, double *low,
                          double *high) {
    *low = kto_auto_weight(desirable, undesirable, options->undesirable_weight);
    *high = *low * 4 / 3;
    // Not sharper than the two digits that such weights are given with.
    return options->desirable_weight >= *low - 0.005 && options->desirable_weight <= *high + 0.005;
}
