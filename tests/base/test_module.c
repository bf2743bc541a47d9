// Modules: one that was built with this program is loaded, any other refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/base/module.h"

#include <stdio.h>
#include <stdlib.h>

static void refuse(const char *name, const char *symbol, const char *what) {
    void *found;
    char message[1024];
    error_clear();
    assert_int_equal(module_symbol(name, symbol, &found), STATUS_FAILED);
    snprintf(message, sizeof message, "%s/kto_%s.so %s", getenv("KTO_MODULE_DIR"), name, what);
    assert_string_equal(error_text(), message);
}

static void test_modules(void **state) {
    (void)state;
    void *found;
    if (module_symbol("same", "answer", &found) != STATUS_OK) fail_msg("%s", error_text());
    assert_int_equal(*(const int *)found, 42);
    refuse("same", "question", "has no question");
    refuse("another", "answer", "is of another version of kto");
    refuse("without", "answer", "is of another version of kto");
    refuse("missing", "answer", "is not there");
    assert_true(module_exists("another") && !module_exists("missing"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_modules)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
