// The passes of a batch, walked through without a model: every micro-batch goes forward once with each of its
// completions, backward follows its own forward and never comes before z0 where the loss has one, and all ranks meet in
// the same number of exchanges.
#include "src/train/passes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <stdlib.h>

enum { MICRO_MAX = 4 };

typedef struct Walked {
    unsigned forward[MICRO_MAX]; // roles that went forward
    bool backward[MICRO_MAX];
    int exchanges;
} Walked;

static Walked walk(int32_t micro_count, bool two_pass, bool train, bool needs_z0) {
    const BatchPlan plan = {.micro_count = micro_count, .two_pass = two_pass};
    StepPass *passes = calloc((size_t)step_passes_max(&plan), sizeof *passes);
    assert_non_null(passes);
    const int32_t count = step_passes(&plan, train, needs_z0, passes);
    assert_true(count <= step_passes_max(&plan));
    Walked walked = {.exchanges = 0};
    int32_t last = -1; // micro-batch whose activations are there
    bool kl_known = true;
    for (int32_t i = 0; i < micro_count; i++) kl_known = kl_known && !needs_z0;
    for (int32_t i = 0; i < count; i++) {
        const StepPass *pass = &passes[i];
        if (pass->kind == PASS_EXCHANGE) {
            walked.exchanges++;
            bool all = true;
            for (int32_t m = 0; m < micro_count; m++) all = all && (walked.forward[m] & ROLES_KL_ONLY);
            kl_known = kl_known || all;
            continue;
        }
        assert_in_range(pass->micro, 0, micro_count - 1);
        if (pass->kind == PASS_FORWARD) {
            assert_true((walked.forward[pass->micro] & pass->roles) == 0); // no completion twice
            walked.forward[pass->micro] |= pass->roles;
            last = pass->roles & ROLES_POLICY ? pass->micro : -1;
        } else {
            assert_true(train && last == pass->micro); // of the forward pass just before it
            assert_true(kl_known);                     // z0 is of all y'
            assert_false(walked.backward[pass->micro]);
            walked.backward[pass->micro] = true;
        }
    }
    assert_true(passes[count - 1].kind == PASS_EXCHANGE || (train && needs_z0 && !two_pass));
    free(passes);
    return walked;
}

static void test_every_plan(void **state) {
    (void)state;
    for (int bits = 0; bits < 8; bits++) {
        const bool two_pass = bits & 1, train = bits & 2, needs_z0 = bits & 4;
        int exchanges = -1;
        for (int32_t micro = 0; micro <= MICRO_MAX; micro++) {
            // Who waits for z0 with one pass has one micro-batch at most (batch_plan's two_pass).
            if (needs_z0 && !two_pass && micro > 1) continue;
            const Walked walked = walk(micro, two_pass, train, needs_z0);
            for (int32_t m = 0; m < micro; m++) {
                assert_int_equal(walked.forward[m], ROLES_ALL);
                assert_int_equal(walked.backward[m], train);
            }
            if (exchanges >= 0) assert_int_equal(walked.exchanges, exchanges); // an idle rank meets the others too
            exchanges = walked.exchanges;
        }
        assert_int_equal(exchanges, two_pass && train && needs_z0 ? 2 : 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_plan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
