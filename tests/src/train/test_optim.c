// Schedules against what transformers' schedulers give, and the clip factor against torch's definition.
#include "src/train/optim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <math.h>

// Both sides evaluate the same few fp64 operations, in an order that may differ: a handful of roundings of values of
// the size of the peak rate.
#define NEAR(got, want, size) assert_true(fabs((got) - (want)) <= 8 * 0x1p-53 * (size))

enum { STEPS = 12 };
// transformers 5.23, get_{cosine,linear,constant}_schedule_with_warmup on torch 2.15's LambdaLR: the rate of updates
// 1, 2, ... for a peak of 5e-4.
static const struct {
    Scheduler scheduler;
    int warmup, total;
    double rate[STEPS];
} transformers_rates[] = {
    {SCHEDULER_COSINE,
     0,
     12,
     {0.0005, 0.0004914814565722671, 0.00046650635094610973, 0.00042677669529663686, 0.000375, 0.00031470476127563017,
      0.00025, 0.0001852952387243698, 0.00012500000000000006, 7.322330470336314e-05, 3.3493649053890325e-05,
      8.51854342773295e-06}},
    {SCHEDULER_COSINE,
     4,
     12,
     {0.0, 0.000125, 0.00025, 0.000375, 0.0005, 0.0004809698831278217, 0.00042677669529663686, 0.0003456708580912725,
      0.00025, 0.00015432914190872756, 7.322330470336314e-05, 1.9030116872178316e-05}},
    {SCHEDULER_COSINE,
     12,
     12,
     {0.0, 4.1666666666666665e-05, 8.333333333333333e-05, 0.000125, 0.00016666666666666666, 0.00020833333333333335,
      0.00025, 0.0002916666666666667, 0.0003333333333333333, 0.000375, 0.0004166666666666667, 0.0004583333333333333}},
    {SCHEDULER_LINEAR,
     0,
     12,
     {0.0005, 0.0004583333333333333, 0.0004166666666666667, 0.000375, 0.0003333333333333333, 0.0002916666666666667,
      0.00025, 0.00020833333333333335, 0.00016666666666666666, 0.000125, 8.333333333333333e-05,
      4.1666666666666665e-05}},
    {SCHEDULER_LINEAR,
     4,
     12,
     {0.0, 0.000125, 0.00025, 0.000375, 0.0005, 0.0004375, 0.000375, 0.0003125, 0.00025, 0.0001875, 0.000125,
      6.25e-05}},
    {SCHEDULER_CONSTANT,
     0,
     12,
     {0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005}},
    {SCHEDULER_CONSTANT,
     4,
     12,
     {0.0, 0.000125, 0.00025, 0.000375, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005, 0.0005}},
};

static void test_schedules(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof transformers_rates / sizeof *transformers_rates; i++)
        for (int step = 1; step <= STEPS; step++) {
            double got = optim_learning_rate(transformers_rates[i].scheduler, 5e-4, step, transformers_rates[i].warmup,
                                             transformers_rates[i].total);
            NEAR(got, transformers_rates[i].rate[step - 1], 5e-4);
        }
}

// What a run may ask beyond the table: one step, more warmup than steps, steps after the last.
static void test_schedule_ends(void **state) {
    (void)state;
    for (Scheduler s = SCHEDULER_COSINE; s <= SCHEDULER_CONSTANT; s++) {
        NEAR(optim_learning_rate(s, 1, 1, 0, 1), 1.0, 1);
        NEAR(optim_learning_rate(s, 1, 5, 100, 10), 0.04, 1);
        assert_true(optim_learning_rate(s, 1, 1, 5, 10) == 0);
    }
    assert_true(optim_learning_rate(SCHEDULER_LINEAR, 1, 14, 4, 12) == 0); // never negative
}

// torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)).
static void test_clip(void **state) {
    (void)state;
    assert_true(optim_clip_scale(1e9, 0) == 1); // no clipping
    assert_true(optim_clip_scale(0, 1) == 1);
    assert_true(optim_clip_scale(0.5, 1) == 1);
    NEAR(optim_clip_scale(2, 1), 1 / 2.000001, 1);
    NEAR(optim_clip_scale(1, 1), 1 / 1.000001, 1); // torch's epsilon shrinks at the border too
    NEAR(optim_clip_scale(0.1, 0.05), 0.05 / 0.100001, 1);
    assert_true(optim_clip_scale(INFINITY, 1) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_schedule_ends),
        cmocka_unit_test(test_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
