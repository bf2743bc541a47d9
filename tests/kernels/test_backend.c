// The table of operations: the CPU's is complete, and what another lacks is named.
#include "kernels/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void missing_ops_are_named(void **state) {
    (void)state;
    assert_null(backend_missing(&backend_cpu));
    Backend backend = backend_cpu;
    backend.adamw = NULL;
    assert_string_equal(backend_missing(&backend), "adamw");
    backend = backend_cpu;
    backend.rope = NULL;
    assert_string_equal(backend_missing(&backend), "rope");
    backend.open = NULL;
    assert_string_equal(backend_missing(&backend), "open");
}

static void unknown_names_are_refused(void **state) {
    (void)state;
    const char *why = NULL;
    assert_ptr_equal(backend_find("cpu", &why), &backend_cpu);
    assert_null(backend_find("tpu", &why));
    assert_string_equal(why, "there is no device \"tpu\"; use \"cpu\" or \"cuda\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(missing_ops_are_named),
                                       cmocka_unit_test(unknown_names_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
