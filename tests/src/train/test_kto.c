// The losses against TRL's formulas evaluated by torch or by hand, against finite differences, and at their edges: the
// clamp of z0, weights, saturation, metrics without rows, batches of one class, permuted rows.
#include "src/base/rng.h"
#include "src/train/kto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <math.h>

// A few dozen fp64 roundings of terms that add up to `size`.
#define NEAR(got, want, size) assert_true(fabs((got) - (want)) <= 64 * 0x1p-53 * (size))

enum { ROWS = 5 };
static const KtoOptions kto = {.beta = 0.3, .desirable_weight = 1.33, .undesirable_weight = 0.8};
static const KtoOptions apo = {
    .loss = LOSS_APO_ZERO_UNPAIRED, .beta = 0.3, .desirable_weight = 1.33, .undesirable_weight = 0.8};
static const KtoRecord records[ROWS] = {
    {-41.5, -40, -60, -61.5, 30, 1.5, 10, 25, 1, true},   {-12.25, -14, -33.5, -34, 12, -2, 4, 9, 1, false},
    {-30, -30.5, -20, -18.5, 20.5, 0.25, 7, 30, 1, true}, {-55.75, -52, -71, -74, 44, 3, 15, 40, 1, false},
    {-8.5, -8.5, -44, -45.25, 6, -0.5, 2, 11, 1, true},
};
// The lines of TRL 1.16's KTOTrainer._compute_loss on these log-probs in fp64 (torch 2.15), the gradient by autograd.
static const struct {
    const KtoOptions *options;
    double z0, loss, row_loss[ROWS], gradient[ROWS];
} trl[] = {
    {&kto,
     0.95,
     0.5945305782654622,
     {0.8989490318755011, 0.44777091941375446, 0.7098194511257582, 0.15698724509262335, 0.759126243819674},
     {-0.017480880472985672, 0.011828845444377345, -0.01985937820153921, 0.007570860071424547, -0.019550312040198463}},
    {&apo,
     0,
     0.5582178895974937,
     {0.8121501811524652, 0.502652950636293, 0.6152183056928131, 0.1960680105058974, 0.665},
     {-0.018973165000908118, 0.011209677879424711, -0.01983820073286793, 0.008880880774573293, -0.01995}},
};

static void test_trl(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof trl / sizeof *trl; k++) {
        const double z0 = kto_z0(trl[k].options, records, ROWS);
        NEAR(z0, trl[k].z0, 100);
        for (int i = 0; i < ROWS; i++) {
            NEAR(kto_row_loss(trl[k].options, &records[i], z0), trl[k].row_loss[i], 10);
            NEAR(kto_row_gradient(trl[k].options, &records[i], z0, ROWS), trl[k].gradient[i], 1);
        }
        MetricsRow m;
        kto_metrics(trl[k].options, records, ROWS, z0, &m);
        NEAR(m.loss, trl[k].loss, 10);
        assert_true(m.kl == z0);
        NEAR(m.rewards_chosen, 0.3 * (-1.5 + 0.5 + 0) / 3, 10);
        NEAR(m.rewards_rejected, 0.3 * (1.75 - 3.75) / 2, 10);
        NEAR(m.rewards_margins, m.rewards_chosen - m.rewards_rejected, 1);
        NEAR(m.logps_chosen, (-41.5 - 30 - 8.5) / 3, 100);
        NEAR(m.logps_rejected, (-12.25 - 55.75) / 2, 100);
        NEAR(m.logits_chosen, (1.5 + 0.25 - 0.5) / (10 + 7 + 2), 1); // over tokens, not over rows
        NEAR(m.logits_rejected, (-2 + 3) / (4 + 15.0), 1);
        NEAR(m.entropy, (30 + 12 + 20.5 + 44 + 6) / 38, 10);
        assert_true(m.rows == 5 && m.rows_chosen == 3 && m.scored_tokens == 38);
    }
}

// Right rows by hand: r = -1.5, 1.75, 0.5, -3.75, 0 with labels D, U, D, U, D.
static void test_accuracies(void **state) {
    (void)state;
    MetricsRow m;
    kto_metrics(&kto, records, ROWS, 0.95, &m); // only row 3 lies below z0 as it should
    NEAR(m.rewards_accuracies, 1.0 / 5, 1);
    kto_metrics(&apo, records, ROWS, 0, &m); // rows 2 and 3; a row exactly at the point is on no side
    NEAR(m.rewards_accuracies, 2.0 / 5, 1);
    kto_metrics(&kto, records, ROWS, 0.25, &m); // rows 2 and 3
    NEAR(m.rewards_accuracies, 2.0 / 5, 1);
}

static void test_z0(void **state) {
    (void)state;
    KtoRecord r[2] = {{.logp_kl = -3, .ref_logp_kl = -5}, {.logp_kl = -4, .ref_logp_kl = -5}};
    assert_true(kto_z0(&kto, r, 2) == 1.5);
    r[0].logp_kl = -6;
    assert_true(kto_z0(&kto, r, 2) == 0); // mean exactly 0
    r[0].logp_kl = -60;
    assert_true(kto_z0(&kto, r, 2) == 0 && !signbit(kto_z0(&kto, r, 2)));
    r[0].logp_kl = 60;
    assert_true(kto_z0(&apo, r, 2) == 0);
    r[0].logp_kl = NAN; // must not look like a healthy step
    assert_true(isnan(kto_z0(&kto, r, 2)));
}

static double mean_loss(const KtoOptions *options, const KtoRecord *r, int count, double z0) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += kto_row_loss(options, &r[i], z0);
    return sum / count;
}

static KtoRecord random_record(Rng *rng) {
    double ref = -100 * rng_uniform(rng), ref_kl = -100 * rng_uniform(rng);
    return (KtoRecord){.logp = ref + 20 * (rng_uniform(rng) - 0.5),
                       .ref_logp = ref,
                       .logp_kl = ref_kl + 20 * (rng_uniform(rng) - 0.5),
                       .ref_logp_kl = ref_kl,
                       .entropy_sum = 10 * rng_uniform(rng),
                       .logit_sum = rng_uniform(rng) - 0.5,
                       .scored_tokens = 1 + rng_below(rng, 20),
                       .tokens = 40,
                       .weight = 0.1 + 3 * rng_uniform(rng),
                       .desirable = rng_below(rng, 2) == 1};
}

// Gradients are those of the mean loss with z0 held fixed. The central difference errs by h^2/6 times the third
// derivative, at most w beta^3/8, and by the loss's rounding over h.
static void test_finite_differences(void **state) {
    (void)state;
    Rng rng = rng_make(3, 0, 0);
    for (int round = 0; round < 200; round++) {
        KtoOptions options = {.loss = (LossType)(round % 2),
                              .beta = 0.05 + rng_uniform(&rng),
                              .desirable_weight = 0.5 + rng_uniform(&rng),
                              .undesirable_weight = 0.5 + rng_uniform(&rng)};
        enum { N = 6 };
        KtoRecord r[N];
        for (int i = 0; i < N; i++) r[i] = random_record(&rng);
        const double z0 = kto_z0(&options, r, N), h = 0x1p-14;
        for (int i = 0; i < N; i++) {
            const double gradient = kto_row_gradient(&options, &r[i], z0, N), logp = r[i].logp;
            r[i].logp = logp + h;
            double above = mean_loss(&options, r, N, z0);
            r[i].logp = logp - h;
            double below = mean_loss(&options, r, N, z0);
            r[i].logp = logp;
            const double weight =
                r[i].weight * (r[i].desirable ? options.desirable_weight : options.undesirable_weight);
            const double tolerance = h * h / 6 * weight * pow(options.beta, 3) / 8 + 64 * 0x1p-53 * 10 / h;
            assert_true(fabs((above - below) / (2 * h) - gradient) <= tolerance);
            assert_true(r[i].desirable ? gradient <= 0 : gradient >= 0);
        }
    }
}

// Far from the reference point losses saturate without overflow and gradients vanish.
static void test_saturation(void **state) {
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2)
        for (int desirable = 0; desirable < 2; desirable++) {
            KtoRecord r = {.logp = sign * 1e5, .weight = 2, .desirable = desirable};
            const double weight = 2 * (desirable ? 1.33 : 0.8);
            const bool right = desirable == (sign > 0);
            NEAR(kto_row_loss(&kto, &r, 0), right ? 0 : weight, 1);
            assert_true(kto_row_gradient(&kto, &r, 0, 1) == 0);
        }
}

static void test_weights(void **state) {
    (void)state;
    KtoRecord r = records[0];
    const double loss = kto_row_loss(&kto, &r, 0.95), gradient = kto_row_gradient(&kto, &r, 0.95, 4);
    r.weight = 2.5;
    NEAR(kto_row_loss(&kto, &r, 0.95), 2.5 * loss, 10);
    NEAR(kto_row_gradient(&kto, &r, 0.95, 4), 2.5 * gradient, 1);
    NEAR(kto_row_gradient(&kto, &r, 0.95, 8), 2.5 * gradient / 2, 1);
    // Eq. 8 of the paper: w_D n_D / (w_U n_U) in [1, 4/3]; the lower bound.
    NEAR(kto_auto_weight(100, 300, 1), 3, 4);
    NEAR(kto_auto_weight(300, 100, 0.6), 0.2, 1);
    assert_true(kto_auto_weight(0, 5, 2) == 1 && kto_auto_weight(5, 0, 2) == 1); // one class: nothing to balance
    double low, high;
    KtoOptions o = {.desirable_weight = 3, .undesirable_weight = 1};
    assert_true(kto_weights_in_range(&o, 100, 300, &low, &high));
    NEAR(low, 3, 4);
    NEAR(high, 4, 4);
    o.desirable_weight = 4;
    assert_true(kto_weights_in_range(&o, 100, 300, &low, &high));
    o.desirable_weight = 4.1;
    assert_false(kto_weights_in_range(&o, 100, 300, &low, &high));
    o.desirable_weight = 2.9;
    assert_false(kto_weights_in_range(&o, 100, 300, &low, &high));
}

static void test_one_class(void **state) {
    (void)state;
    MetricsRow m;
    KtoRecord r[2] = {records[0], records[2]}; // desirable only
    kto_metrics(&kto, r, 2, 0.5, &m);
    assert_true(isnan(m.rewards_rejected) && isnan(m.logps_rejected) && isnan(m.logits_rejected));
    assert_true(isnan(m.rewards_margins));
    assert_true(isfinite(m.loss) && isfinite(m.entropy) && isfinite(m.rewards_accuracies));
    NEAR(m.rewards_chosen, 0.3 * (-1.5 + 0.5) / 2, 10);
    NEAR(m.logps_chosen, (-41.5 - 30) / 2, 100);
    assert_true(m.rows == 2 && m.rows_chosen == 2);
    r[0] = records[1], r[1] = records[3]; // undesirable only
    kto_metrics(&kto, r, 2, 0.5, &m);
    assert_true(isnan(m.rewards_chosen) && isnan(m.logps_chosen) && isnan(m.logits_chosen));
    assert_true(isnan(m.rewards_margins) && isfinite(m.loss));
    NEAR(m.rewards_rejected, 0.3 * (1.75 - 3.75) / 2, 10);
    assert_true(m.rows == 2 && m.rows_chosen == 0);
}

// Sums of N terms in another order differ by at most N roundings of the sum of absolute values.
static void test_permutation(void **state) {
    (void)state;
    enum { N = 50 };
    Rng rng = rng_make(4, 0, 0);
    KtoRecord r[N], permuted[N];
    int32_t order[N];
    for (int i = 0; i < N; i++) {
        r[i] = random_record(&rng);
        order[i] = i;
    }
    rng_shuffle(&rng, order, N);
    for (int i = 0; i < N; i++) permuted[i] = r[order[i]];
    const double z0 = kto_z0(&kto, r, N), other = kto_z0(&kto, permuted, N);
    NEAR(z0, other, 200);
    MetricsRow a, b;
    kto_metrics(&kto, r, N, z0, &a);
    kto_metrics(&kto, permuted, N, z0, &b);
    NEAR(a.loss, b.loss, 10);
    NEAR(a.entropy, b.entropy, 10);
    NEAR(a.rewards_chosen, b.rewards_chosen, 10);
    NEAR(a.rewards_rejected, b.rewards_rejected, 10);
    NEAR(a.logps_chosen, b.logps_chosen, 200);
    NEAR(a.logps_rejected, b.logps_rejected, 200);
    NEAR(a.logits_chosen, b.logits_chosen, 1);
    NEAR(a.logits_rejected, b.logits_rejected, 1);
    assert_true(a.rewards_accuracies == b.rewards_accuracies && a.rows_chosen == b.rows_chosen);
}

// --- pairs ----------------------------------------------------------------------------------------------------------

// Log-ratios 2 log 3 and 0, then 0 and 2 log 3, then 3.5 twice: margins log 3, -log 3 and 0 with beta 1/2.
static const KtoOptions dpo = {.loss = LOSS_DPO, .beta = 0.5, .desirable_weight = 1, .undesirable_weight = 1};
static const double log3 = 1.0986122886681098;
static void make_pairs(KtoRecord pair[6]) {
    static const KtoRecord made[6] = {
        {-10, -10, 0, 0, 20, 1.5, 4, 9, 1, true},  {-8, -8, 0, 0, 12, -2, 3, 8, 1, false},
        {-30, -30, 0, 0, 30, 0.5, 6, 30, 3, true}, {-5, -5, 0, 0, 8, 3, 2, 26, 3, false},
        {-6.5, -10, 0, 0, 4, 0.25, 1, 5, 1, true}, {-1.5, -5, 0, 0, 6, 1, 2, 6, 1, false},
    };
    for (int i = 0; i < 6; i++) pair[i] = made[i];
    pair[0].logp += 2 * log3;
    pair[3].logp += 2 * log3;
}

// -log sigmoid(x) is log(4/3), log 4 and log 2; its slope -sigmoid(-x) is -1/4, -3/4 and -1/2.
static void test_dpo_by_hand(void **state) {
    (void)state;
    KtoRecord pair[6];
    make_pairs(pair);
    assert_int_equal(kto_completions(&dpo), 2);
    assert_int_equal(kto_completions(&kto), 1);
    assert_true(kto_z0(&dpo, pair, 3) == 0);
    static const double loss[] = {0.28768207245178092, 3 * 1.3862943611198906, 0.69314718055994531};
    static const double slope[] = {-0.25, 3 * -0.75, -0.5};
    for (int i = 0; i < 3; i++) {
        NEAR(kto_row_loss(&dpo, &pair[2 * i], 0), loss[i], 30);
        NEAR(kto_row_gradient(&dpo, &pair[2 * i], 0, 3), 0.5 * slope[i] / 3, 30);
    }
    MetricsRow m;
    kto_metrics(&dpo, pair, 3, 0, &m);
    NEAR(m.loss, (loss[0] + loss[1] + loss[2]) / 3, 30); // over pairs, not over weights
    assert_true(m.kl == 0 && m.rows == 3 && m.rows_chosen == 3 && m.scored_tokens == 18);
    NEAR(m.rewards_chosen, (log3 + 0 + 1.75) / 3, 30);
    NEAR(m.rewards_rejected, (0 + log3 + 1.75) / 3, 30);
    NEAR(m.rewards_margins, 0, 30);
    NEAR(m.rewards_accuracies, 1.0 / 3, 1); // equal rewards are not in order
    NEAR(m.logps_chosen, (-10 + 2 * log3 - 30 - 6.5) / 3, 100);
    NEAR(m.logps_rejected, (-8 - 5 + 2 * log3 - 1.5) / 3, 100);
    NEAR(m.logits_chosen, (1.5 + 0.5 + 0.25) / 11, 1);
    NEAR(m.logits_rejected, (-2 + 3 + 1) / 7.0, 1);
    NEAR(m.entropy, 80 / 18.0, 10);
}

// The gradient of the mean loss for both completions of every pair. The central difference errs by h^2/6 times the
// third derivative, at most w beta^3/10, and by the loss's rounding over h.
static void test_dpo_finite_differences(void **state) {
    (void)state;
    enum { N = 4 };
    Rng rng = rng_make(5, 0, 0);
    for (int round = 0; round < 200; round++) {
        KtoOptions options = dpo;
        options.beta = 0.05 + rng_uniform(&rng);
        KtoRecord r[2 * N];
        for (int i = 0; i < 2 * N; i++) {
            r[i] = random_record(&rng);
            r[i].desirable = i % 2 == 0;
            if (i % 2 == 1) r[i].weight = r[i - 1].weight;
        }
        const double h = 0x1p-14;
        for (int i = 0; i < 2 * N; i++) {
            const KtoRecord *row = &r[i - i % 2];
            const double sign = i % 2 == 0 ? 1 : -1, logp = r[i].logp;
            const double gradient = sign * kto_row_gradient(&options, row, 0, N);
            MetricsRow above, below;
            r[i].logp = logp + h;
            kto_metrics(&options, r, N, 0, &above);
            r[i].logp = logp - h;
            kto_metrics(&options, r, N, 0, &below);
            r[i].logp = logp;
            const double tolerance = h * h / 6 * row->weight * pow(options.beta, 3) / 10 + 64 * 0x1p-53 * 100 / h;
            assert_true(fabs((above.loss - below.loss) / (2 * h) - gradient) <= tolerance);
            assert_true(sign * gradient < 0);
        }
    }
}

// On the right side the loss vanishes; on the wrong side it is linear, its slope the whole beta. Neither overflows.
static void test_dpo_saturation(void **state) {
    (void)state;
    for (int side = 0; side < 2; side++)
        for (double far = 50; far <= 1e7; far *= 100) {
            KtoRecord r[2] = {{.logp = side == 0 ? far : -far, .weight = 2, .desirable = true},
                              {.logp = side == 0 ? -far : far, .weight = 2}};
            const double x = 0.5 * 2 * far;
            NEAR(kto_row_loss(&dpo, r, 0), side == 0 ? 2 * exp(-x) : 2 * x, 10 * far);
            assert_true(isfinite(kto_row_loss(&dpo, r, 0)) && kto_row_loss(&dpo, r, 0) >= 0);
            NEAR(kto_row_gradient(&dpo, r, 0, 4), side == 0 ? 0 : -2 * 0.5 / 4, 1);
        }
    KtoRecord r[2] = {{.logp = NAN, .weight = 1, .desirable = true},
                      {.weight = 1}}; // must not look like a healthy step
    MetricsRow m;
    kto_metrics(&dpo, r, 1, 0, &m);
    assert_true(isnan(m.loss) && isnan(kto_row_gradient(&dpo, r, 0, 1)));
}

// The configuration refuses weights of labels, and a pair would not feel them.
static void test_dpo_ignores_label_weights(void **state) {
    (void)state;
    KtoRecord pair[6];
    make_pairs(pair);
    KtoOptions other = dpo;
    other.desirable_weight = 7, other.undesirable_weight = 0;
    assert_true(kto_row_loss(&other, pair, 0) == kto_row_loss(&dpo, pair, 0));
    assert_true(kto_row_gradient(&other, pair, 0, 3) == kto_row_gradient(&dpo, pair, 0, 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trl),
        cmocka_unit_test(test_accuracies),
        cmocka_unit_test(test_z0),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_one_class),
        cmocka_unit_test(test_dpo_by_hand),
        cmocka_unit_test(test_dpo_finite_differences),
        cmocka_unit_test(test_dpo_saturation),
        cmocka_unit_test(test_dpo_ignores_label_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
