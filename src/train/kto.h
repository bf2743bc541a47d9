// The losses: records of a global batch to z0, loss, metrics and d loss / d logp. Plain scalar C in fp64, small enough
// to be read as the definition. KTO: arXiv 2402.01306 eq. 7-8; APO-zero unpaired: arXiv 2408.06266; DPO: arXiv
// 2305.18290 eq. 7. Definitions of losses and metrics are those of TRL 1.16's KTOTrainer and DPOTrainer.
#pragma once
#include "io/config.h"
#include "io/metrics.h"
#include <stdint.h>

typedef struct KtoOptions {
    LossType loss; // only "kto" has KL completions and a z0 other than 0; a row of "dpo" is a pair
    double beta, desirable_weight, undesirable_weight; // the weights of labels are not used by "dpo"
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

// Records of a row: 1, or 2 with "dpo", the chosen completion and then the rejected one. Below, `row` points to a row's
// records, and `records` holds those of `count` rows, in row order.
int32_t kto_completions(const KtoOptions *options);

// z0 = max(0, mean of logp_kl - ref_logp_kl): eq. 7's reference point, a constant for the gradient.
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
