// The roofline's counts against a model small enough to count by hand, and its seconds against rates that divide
// evenly.
#include "src/model/roofline.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <math.h>
#include <string.h>

// Weights of a layer: q 4x4, k and v 2x4, o 4x4, gate and up 6x4, down 4x6: 16 + 8 + 8 + 16 + 24 + 24 + 24 = 120.
static const ModelConfig model = {.hidden = 4,
                                  .intermediate = 6,
                                  .layers = 2,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .head_dim = 2,
                                  .vocab = 10,
                                  .max_position = 16};
static const ModelOptions options = {.device.dtype = DTYPE_F32, .lora_r = 1, .lora_target = {true, false, true}};
// A prompt of 4 tokens (3 of them prefix), an answer of 2 and one y' of 1: keys 1 + 2 + 3, 4 + 5, 4.
static const RooflineTokens tokens = {
    .prefix = 3, .policy = 2, .kl = 1, .prefix_keys = 6, .policy_keys = 9, .kl_keys = 4, .micro_batches = 1};

// All counts are small integers, so exact.
static void expect(const RooflineWork *work, RooflineClass class, double flops, double bytes) {
    if (work->flops[class] == flops && work->bytes[class] == bytes) return;
    fail_msg("%s: %g operations and %g bytes, expected %g and %g", roofline_class_names[class], work->flops[class],
             work->bytes[class], flops, bytes);
}

static void test_counts(void **state) {
    (void)state;
    RooflineWork work;
    roofline_work(&model, &options, &tokens, &work);
    // Multiply-adds: forward 6 * 120, then k and v of 6, the rest of 3 tokens: 6 * 16 + 3 * 104. Backward o and MLP of
    // the first layer 5 * 88, the last 5 * 16 + 2 * 104. Elements moved: tokens * (in + out), and each weight once.
    expect(&work, ROOFLINE_LINEAR, 2 * (720 + 408 + 440 + 288),
           4 * ((6 * 58 + 120) + (6 * 12 + 3 * 46 + 120) + (5 * 38 + 88) + (5 * 12 + 2 * 46 + 120)));
    expect(&work, ROOFLINE_HEAD, 2 * (3 + 2) * 40, 4 * ((3 + 2) * 14 + 2 * 40) + 2 * 3 * 40);
    // 4 a key and feature forward: 19 keys in layer 1, 13 in layer 2; 10 backward: 15 and 9.
    expect(&work, ROOFLINE_ATTENTION, 4 * 4 * (19 + 13), 4 * 12 * 9);
    expect(&work, ROOFLINE_ATTENTION_BACKWARD, 10 * 4 * (15 + 9), 4 * 24 * 7);
    assert_true(work.passes[ROOFLINE_ATTENTION] == 2 && work.passes[ROOFLINE_ATTENTION_BACKWARD] == 2);
    assert_true(work.rows == 6 && work.head_dim == 2 && work.launches > 0);
    // q: 6 + 3 tokens forward, 5 + 2 backward; v: 6 + 6 and 5 + 5.
    expect(&work, ROOFLINE_LORA, 2 * 8 * (9 + 2 * 7) + 2 * 6 * (12 + 2 * 10), 4 * (13 * 9 + 21 * 7 + 9 * 12 + 17 * 10));
    expect(&work, ROOFLINE_ROWS, 0, 4 * ((44 + 18) * 9 + (44 + 30) * 7));
    expect(&work, ROOFLINE_ADAMW, 0, 28 * 40);
    assert_true(roofline_adapter_count(&model, &options) == 2 * (8 + 6));
    assert_true(roofline_adapter_bytes(&model, &options) == 28 * 16);
}

// Two passes run the prefixes twice and read the weights once more; recomputing runs layer 1 again for 5 tokens.
static void test_more_passes(void **state) {
    (void)state;
    RooflineWork once, work;
    roofline_work(&model, &options, &tokens, &once);
    RooflineTokens two_pass = tokens;
    two_pass.two_pass = true;
    roofline_work(&model, &options, &two_pass, &work);
    expect(&work, ROOFLINE_LINEAR, once.flops[ROOFLINE_LINEAR] + 2 * 3 * (120 + 16),
           once.bytes[ROOFLINE_LINEAR] + 4 * (3 * (58 + 12) + 2 * 120));
    expect(&work, ROOFLINE_ATTENTION, once.flops[ROOFLINE_ATTENTION] + 4 * 4 * 6,
           once.bytes[ROOFLINE_ATTENTION] + 4 * 12 * 3);
    assert_true(work.passes[ROOFLINE_ATTENTION] == 4 && work.passes[ROOFLINE_ATTENTION_BACKWARD] == 2);
    ModelOptions recompute = options;
    recompute.recompute = true;
    roofline_work(&model, &recompute, &tokens, &work);
    expect(&work, ROOFLINE_LINEAR, once.flops[ROOFLINE_LINEAR] + 2 * 5 * 120,
           once.bytes[ROOFLINE_LINEAR] + 4 * (5 * 58 + 120));
    expect(&work, ROOFLINE_HEAD, once.flops[ROOFLINE_HEAD], once.bytes[ROOFLINE_HEAD]);
}

#define NEAR(got, want) assert_true(fabs((got) - (want)) <= 1e-12 * (want))

static void test_seconds(void **state) {
    (void)state;
    const RooflineDevice *l4 = NULL;
    assert_int_equal(roofline_device("l4", &l4), STATUS_OK);
    // 0.6 of 121 TFLOP/s and 0.75 of 300 GB/s for one second each; the larger of the two counts.
    RooflineWork work = {.flops = {[ROOFLINE_LINEAR] = 72.6e12, [ROOFLINE_HEAD] = 7.26e12},
                         .bytes = {[ROOFLINE_LINEAR] = 1, [ROOFLINE_HEAD] = 225e9, [ROOFLINE_ROWS] = 450e9},
                         .rows = 1000};
    double seconds[ROOFLINE_CLASSES], host;
    NEAR(roofline_seconds(l4, DTYPE_BF16, &work, seconds, &host), 4.0);
    NEAR(seconds[ROOFLINE_LINEAR], 1.0);
    NEAR(seconds[ROOFLINE_HEAD], 1.0);
    NEAR(seconds[ROOFLINE_ROWS], 2.0);
    assert_true(seconds[ROOFLINE_ATTENTION] == 0 && host == 0);
    NEAR(roofline_seconds(l4, DTYPE_F32, &work, seconds, &host) - 3, 121 / 30.3);
    work.launches = 1e6; // then the device waits for the host: 4.6 us each
    NEAR(roofline_seconds(l4, DTYPE_BF16, &work, seconds, &host), 4.6);
    NEAR(host, 4.6);
}

// What docs/gpu.md quotes from measurements on the H200 comes out again, within the rounding of the shares there.
static void expect_measured(const RooflineWork *work, RooflineClass class, double measured) {
    const RooflineDevice *h200 = NULL;
    double seconds[ROOFLINE_CLASSES], host;
    assert_int_equal(roofline_device("h200", &h200), STATUS_OK);
    roofline_seconds(h200, DTYPE_BF16, work, seconds, &host);
    if (!(fabs(seconds[class] - measured) <= 0.05 * measured))
        fail_msg("%s: %g s, measured %g s", roofline_class_names[class], seconds[class], measured);
}

static void test_measured(void **state) {
    (void)state;
    // cuBLASLt on the products of "plain" and "header".
    expect_measured(&(RooflineWork){.flops[ROOFLINE_LINEAR] = 714e12, .rows = 2081}, ROOFLINE_LINEAR, 1);
    expect_measured(&(RooflineWork){.flops[ROOFLINE_LINEAR] = 613e12, .rows = 1136}, ROOFLINE_LINEAR, 1);
    // A layer's attention: 1.1 and 1.9 GFLOP ("plain"), 240.4 and 343.4 ("long"), 275.0 and 687.5 (heads of 128).
    RooflineWork work = {
        .passes = {[ROOFLINE_ATTENTION] = 1, [ROOFLINE_ATTENTION_BACKWARD] = 1}, .rows = 1, .head_dim = 64};
    const struct {
        int head_dim;
        double forward, backward, forward_us, backward_us;
    } layers[] = {
        {64, 1.1e9, 1.9e9, 19.7, 54.1}, {64, 240.4e9, 343.4e9, 803, 1499}, {128, 275.0e9, 687.5e9, 785, 3154}};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        work.head_dim = layers[i].head_dim;
        work.flops[ROOFLINE_ATTENTION] = layers[i].forward;
        work.flops[ROOFLINE_ATTENTION_BACKWARD] = layers[i].backward;
        expect_measured(&work, ROOFLINE_ATTENTION, layers[i].forward_us * 1e-6);
        expect_measured(&work, ROOFLINE_ATTENTION_BACKWARD, layers[i].backward_us * 1e-6);
    }
}

static void test_unknown_device(void **state) {
    (void)state;
    const RooflineDevice *device = NULL;
    error_clear();
    assert_int_equal(roofline_device("l5", &device), STATUS_USAGE);
    assert_non_null(strstr(error_text(), "\"l5\""));
    assert_non_null(strstr(error_text(), "l4, "));
    assert_non_null(strstr(error_text(), " and h200"));
    assert_null(device);
    error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),   cmocka_unit_test(test_more_passes),    cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_measured), cmocka_unit_test(test_unknown_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
