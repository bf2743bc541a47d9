// The KTO loss: records of a global batch to z0, loss, metrics and d loss / d logp. Plain scalar C in fp64, small
// enough to be read as the definition. KTO: arXiv 2402.01306 eq. 7-8; APO-zero unpaired: arXiv 2408.06266; definitions
// of losses and metrics are those of TRL 1.16's KTOTrainer.
#pragma once
#include "io/metrics.h"
#include <stdint.h>

typedef struct KtoOptions {
    bool apo_zero; // apo_zero_unpaired: no KL completion, z0 = 0
    double beta, desirable_weight, undesirable_weight;
} KtoOptions;

// One row of the global batch, in row order. Log-probs are sums over the completion's tokens, in nats.
typedef struct KtoRecord {
    double logp, ref_logp;       // of y under policy and reference
    double logp_kl, ref_logp_kl; // of y'
    double entropy_sum;          // of the policy's next-token distributions over y's tokens, in nats
    double logit_sum;            // of the mean logit over the vocabulary, over y's tokens
    double scored_tokens;        // tokens of y
    double tokens;               // tokens of prompt and y
    double weight;               // of the row
    bool desirable;
} KtoRecord;

// z0 = max(0, mean of logp_kl - ref_logp_kl): eq. 7's reference point, a constant for the gradient.
double kto_z0(const KtoOptions *options, const KtoRecord *records, int32_t count);
double kto_row_loss(const KtoOptions *options, const KtoRecord *record, double z0);
// d (mean of row losses over `count` rows) / d logp of this row.
double kto_row_gradient(const KtoOptions *options, const KtoRecord *record, double z0, int32_t count);

// Fills loss, kl, entropy, rewards_*, logps_*, logits_*, rows, rows_chosen and scored_tokens; a metric without rows is
// NaN.
void kto_metrics(const KtoOptions *options, const KtoRecord *records, int32_t count, double z0, MetricsRow *out);

// A weight given as "auto": n_other * w_other / n_own, the lower bound of the paper's eq. 8.
double kto_auto_weight(int64_t own, int64_t other, double other_weight);

// Whether the weights lie in eq. 8's range 1 <= (w_D n_D) / (w_U n_U) <= 4/3; low and high are w_D's range for this
// w_U.
bool kto_weights_in_range(const KtoOptions *options, int64_t desirable, int64_t undesirable, double *low, double *high);
