// Command lines: flags, operands, ranges, what a mistake is told.
#include "src/commands/command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct Options {
    bool on;
    const char *file;
    int64_t count;
    double share;
    int format;
} Options;

static const char *const formats[] = {"peft", "merged", "third", NULL};
static const Flag flags[] = {{.name = "--on", .kind = FLAG_SWITCH, .offset = offsetof(Options, on), .help = "on"},
                             {.name = "--file",
                              .value = "FILE",
                              .kind = FLAG_FILE,
                              .required = true,
                              .offset = offsetof(Options, file),
                              .help = "f"},
                             {.name = "--count",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .low = 1,
                              .high = 10,
                              .offset = offsetof(Options, count),
                              .help = "c"},
                             {.name = "--share",
                              .value = "P",
                              .kind = FLAG_REAL,
                              .low = 0,
                              .high = 1,
                              .offset = offsetof(Options, share),
                              .help = "s"},
                             {.name = "--format",
                              .value = "WORD",
                              .kind = FLAG_WORD,
                              .words = formats,
                              .offset = offsetof(Options, format),
                              .help = "w"},
                             {0}};
static const Command command = {.name = "data test",
                                .operands = "A [B]",
                                .operands_min = 1,
                                .operands_max = 2,
                                .flags = flags,
                                .summary = "s",
                                .examples = "e"};
static const Command other = {.name = "plain", .operands = "", .summary = "s", .examples = "e"};

static Status parse(Options *options, int *argc, char **argv) {
    error_clear();
    for (*argc = 0; argv[*argc] != NULL;) ++*argc;
    return command_parse(&command, argc, argv, options);
}

#define WORDS(...) ((char *[]){__VA_ARGS__, NULL})

static void reads(void **state) {
    (void)state;
    Options options = {.count = 3};
    int argc;
    char **argv = WORDS("a", "--on", "--file", "x y", "--share=0.5", "--format", "merged", "--", "--b");
    assert_int_equal(parse(&options, &argc, argv), STATUS_OK);
    assert_int_equal(argc, 2);
    assert_string_equal(argv[0], "a");
    assert_string_equal(argv[1], "--b");
    assert_true(options.on);
    assert_string_equal(options.file, "x y");
    assert_int_equal(options.count, 3);
    assert_true(options.share == 0.5);
    assert_int_equal(options.format, 1);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *words[6], *message;
    } cases[] = {
        {{"a"}, "kto data test needs --file FILE; see kto help data test"},
        {{"--file", "f"}, "kto data test needs: A [B]"},
        {{"a", "b", "c", "--file", "f"}, "kto data test takes A [B]; \"c\" is too much"},
        {{"a", "--fiel", "f"}, "unknown option --fiel of kto data test; did you mean --file?"},
        {{"a", "--quite-another"}, "unknown option --quite-another of kto data test; see kto help data test"},
        {{"a", "--file"}, "--file needs a value: FILE"},
        {{"a", "--file="}, "--file is empty; it needs a path"},
        {{"a", "--on=1"}, "--on takes no value"},
        {{"a", "--count", "0"}, "--count takes a whole number from 1 to 10, not \"0\""},
        {{"a", "--count", "2.5"}, "--count takes a whole number from 1 to 10, not \"2.5\""},
        {{"a", "--count", "99999999999999999999"},
         "--count takes a whole number from 1 to 10, not \"99999999999999999999\""},
        {{"a", "--share", "0"}, "--share takes a number above 0 and up to 1, not \"0\""},
        {{"a", "--share", "nan"}, "--share takes a number above 0 and up to 1, not \"nan\""},
        {{"a", "--format", "x"}, "--format takes peft, merged or third, not \"x\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *argv[7] = {0};
        memcpy(argv, cases[i].words, sizeof cases[i].words);
        Options options = {0};
        int argc;
        assert_int_equal(parse(&options, &argc, argv), STATUS_USAGE);
        assert_string_equal(error_text(), cases[i].message);
    }
    error_clear();
}

static void finds(void **state) {
    (void)state;
    static const Command *const all[] = {&command, &other, NULL};
    const Command *found = NULL;
    int words;
    assert_int_equal(command_find(all, 3, WORDS("data", "test", "x"), &found, &words), STATUS_OK);
    assert_ptr_equal(found, &command);
    assert_int_equal(words, 2);
    assert_int_equal(command_find(all, 1, WORDS("plain"), &found, &words), STATUS_OK);
    assert_ptr_equal(found, &other);
    assert_int_equal(words, 1);
    assert_int_equal(command_find(all, 1, WORDS("data"), &found, &words), STATUS_USAGE);
    assert_string_equal(error_text(), "which of data test? see kto help");
    error_clear();
    assert_int_equal(command_find(all, 1, WORDS("plan"), &found, &words), STATUS_USAGE);
    assert_string_equal(error_text(), "unknown command \"plan\"; there are data test, plain");
    error_clear();
    assert_int_equal(command_find(all, 0, WORDS(NULL), &found, &words), STATUS_USAGE);
    error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads), cmocka_unit_test(refuses), cmocka_unit_test(finds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
