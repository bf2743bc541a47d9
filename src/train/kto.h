// The losses: records of a global batch to z0, loss, metrics and d loss / d logp. Plain scalar C in fp64, small enough
// to be read as the definition. KTO: arXiv 2402.01306 eq. 7-8; APO-zero unpaired: arXiv 2408.06266; DPO: arXiv
// 2305.18290 eq. 7. Definitions of losses and metrics are those of TRL 1.16's KTOTrainer and DPOTrainer.
#pragma once
#include "io/config.h"
#include "io/metrics.h"
#include <stdint.h>

// What a loss is, but for whether its rows are pairs (loss_takes_pairs of io/config.h). Its argument x is a row's
// margin, in rewards: how far the row lies on its label's side of z0; of a pair, how far the chosen completion lies
// above the rejected one.
typedef struct Loss {
    const char *title, *arxiv; // of its paper
    bool needs_z0;             // which is of KL completions y', one a row; else z0 is 0 and rows have none
    double (*value)(double x); // of a row of weight 1
    double (*slope)(double scale, double x); // scale * d value / dx
} Loss;
const Loss *kto_loss(LossType type);

typedef struct KtoOptions {
    LossType loss;
    double beta, desirable_weight, undesirable_weight; // pairs do not use the weights of labels
} KtoOptions;

// One completion of the global batch. Log-probs are sums over its tokens, in nats.
typedef struct KtoRecord {
    double logp, ref_logp;       // of y under policy and reference
    double logp_kl, ref_logp_kl; // of y'
    double entropy_sum;          // of the policy's next-token distributions over y's tokens, in nats
    double logit_sum;            // of the mean logit over the vocabulary, over y's tokens
    double scored_tokens;        // tokens of y
    double tokens;               // tokens of prompt and y
    double weight;               // of the row
    bool desirable;              // of a pair: the chosen one
} KtoRecord;

// Records of a row: 1, or of a pair 2, the chosen completion and then the rejected one. Below, `row` points to a row's
// records, and `records` holds those of `count` rows, in row order.
int32_t kto_completions(const KtoOptions *options);

// z0 = max(0, mean of logp_kl - ref_logp_kl): KTO's reference point (eq. 7), a constant for the gradient.
double kto_z0(const KtoOptions *options, const KtoRecord *records, int32_t count);
double kto_row_loss(const KtoOptions *options, const KtoRecord *row, double z0);
// d (mean of row losses over `count` rows) / d logp of this row; of a pair's rejected completion it is minus that.
double kto_row_gradient(const KtoOptions *options, const KtoRecord *row, double z0, int32_t count);

// Fills loss, kl, entropy, rewards_*, logps_*, logits_*, rows, rows_chosen and scored_tokens; a metric without rows is
// NaN.
void kto_metrics(const KtoOptions *options, const KtoRecord *records, int32_t count, double z0, MetricsRow *out);

// A weight given as "auto": n_other * w_other / n_own, the lower bound of the paper's eq. 8.
double kto_auto_weight(int64_t own, int64_t other, double other_weight);

// Whether the weights lie in eq. 8's range 1 <= (w_D n_D) / (w_U n_U) <= 4/3; low and high are w_D's range for this
// w_U.
bool kto_weights_in_range(const KtoOptions *options, int64_t desirable, int64_t undesirable, double *low, double *high);
