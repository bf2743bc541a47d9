// The configuration: defaults, every way to set a value, what is refused and with which words, and the way back to
// text.
#include "io/config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Lines 1 to 3 of every text below, so that the case itself is line 4.
#define NEEDED   "model: { path = \"m\"; };\ndata: { train = \"t.jsonl\"; };\n\n"
#define WITH_DIR NEEDED "train: { output_dir = \"out\"; };\n"

static const char *const modules[] = {"q_proj",    "k_proj",  "v_proj",    "o_proj",
                                      "gate_proj", "up_proj", "down_proj", NULL};

static Status parse(Config *config, const char *text, int count, char *const *words) {
    error_clear();
    return config_parse(config, modules, text, "demo.cfg", count, words);
}

static void expect_refused(const char *text, int count, char *const *words, const char *message) {
    Config config;
    assert_int_equal(parse(&config, text, count, words), STATUS_USAGE);
    assert_string_equal(error_text(), message);
}

static Config parsed(const char *text, int count, char *const *words) {
    Config config;
    Status status = parse(&config, text, count, words);
    if (status != STATUS_OK) fail_msg("%s", error_text());
    return config;
}

static void defaults(void **state) {
    (void)state;
    Config c = parsed(WITH_DIR, 0, NULL);
    assert_string_equal(c.model.path, "m");
    assert_int_equal(c.model.dtype, MODEL_BFLOAT16);
    assert_string_equal(c.data.train, "t.jsonl");
    assert_string_equal(c.data.eval, "");
    assert_int_equal(c.data.max_length, 1024);
    assert_int_equal(c.data.max_prompt_length, 0);
    assert_string_equal(c.data.chat_template, "auto");
    assert_false(c.data.skip_bad_rows);
    assert_true(c.data.share_prefixes);
    assert_int_equal(c.lora.r, 8);
    assert_true(c.lora.alpha == 16.0 && c.lora.dropout == 0.0);
    assert_string_equal(c.lora.target_modules, "q_proj,v_proj");
    assert_int_equal(c.kto.loss_type, LOSS_KTO);
    assert_true(c.kto.beta == 0.1 && c.kto.desirable_weight == 1.0 && c.kto.undesirable_weight == 1.0);
    assert_int_equal(c.train.seed, 42);
    assert_int_equal(c.train.global_batch_size, 16);
    assert_int_equal(c.train.max_steps, -1);
    assert_true(c.train.learning_rate == 5e-4 && c.train.adam_epsilon == 1e-8 && c.train.max_grad_norm == 1.0);
    assert_int_equal(c.train.lr_scheduler_type, SCHEDULER_COSINE);
    assert_int_equal(c.train.save_total_limit, 2);
    assert_int_equal(c.train.max_skipped_steps, 10);
    assert_true(c.log.swmr);
    assert_true(c.device.timeout_seconds == 600.0);
}

// Settings that share a line, comments that look like settings, joined strings, numbers in every notation.
static void file_values(void **state) {
    (void)state;
    Config c =
        parsed("# r = 1\n"
               "model = { path = \"a \" /* \"no\" = 5 */ \"b\\\"=1\"; dtype = \"float32\" }\n"
               "data: { train = \"t\", max_length = 0x200; max_prompt_length = 256L; skip_bad_rows = True }\n"
               "lora: { r = 16; alpha = 32; target_modules = (\"up_proj\", \"o_proj\"); dropout = .05 }; // x = 3\n"
               "kto: { beta = 1; desirable_weight = \"auto\"; undesirable_weight = 2 }\n"
               "train: { output_dir = \"out\"; seed = 9007199254740992L; learning_rate = 1e-5; max_steps = 7 }\n",
               0, NULL);
    assert_string_equal(c.model.path, "a b\"=1");
    assert_int_equal(c.model.dtype, MODEL_FLOAT32);
    assert_int_equal(c.data.max_length, 512);
    assert_int_equal(c.data.max_prompt_length, 256);
    assert_true(c.data.skip_bad_rows);
    assert_int_equal(c.lora.r, 16);
    assert_true(c.lora.alpha == 32.0 && c.lora.dropout == 0.05);
    assert_string_equal(c.lora.target_modules, "o_proj,up_proj");
    assert_true(isnan(c.kto.desirable_weight) && c.kto.undesirable_weight == 2.0 && c.kto.beta == 1.0);
    assert_true(c.train.seed == 9007199254740992 && c.train.learning_rate == 1e-5 && c.train.max_steps == 7);
}

// The enums of config.h and the words of the option table are in one order.
static void enums_are_words(void **state) {
    (void)state;
    static const struct {
        const char *key, *word;
        size_t offset;
        int value;
    } cases[] = {
#define CASE(group, name, word, value) {#group "." #name, word, offsetof(Config, group.name), value}
        CASE(model, dtype, "float32", MODEL_FLOAT32),
        CASE(model, dtype, "bfloat16", MODEL_BFLOAT16),
        CASE(data, order, "shuffle", ORDER_SHUFFLE),
        CASE(data, order, "sequential", ORDER_SEQUENTIAL),
        CASE(kto, loss_type, "kto", LOSS_KTO),
        CASE(kto, loss_type, "apo_zero_unpaired", LOSS_APO_ZERO_UNPAIRED),
        CASE(kto, loss_type, "dpo", LOSS_DPO),
        CASE(train, recompute, "none", RECOMPUTE_NONE),
        CASE(train, recompute, "layer", RECOMPUTE_LAYER),
        CASE(train, lr_scheduler_type, "cosine", SCHEDULER_COSINE),
        CASE(train, lr_scheduler_type, "linear", SCHEDULER_LINEAR),
        CASE(train, lr_scheduler_type, "constant", SCHEDULER_CONSTANT),
        CASE(train, optim, "adamw", OPTIM_ADAMW),
        CASE(train, optim, "paged_adamw_32bit", OPTIM_PAGED_ADAMW_32BIT),
        CASE(device, backend, "auto", BACKEND_AUTO),
        CASE(device, backend, "cpu", BACKEND_CPU),
        CASE(device, backend, "cuda", BACKEND_CUDA),
        CASE(device, comm, "auto", COMM_AUTO),
        CASE(device, comm, "nccl", COMM_NCCL),
        CASE(device, comm, "mpi", COMM_MPI),
#undef CASE
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char word[128], *words[] = {word};
        snprintf(word, sizeof word, "%s=%s", cases[i].key, cases[i].word);
        const Config c = parsed(WITH_DIR, 1, words);
        assert_int_equal(*(const int *)((const char *)&c + cases[i].offset), cases[i].value);
        assert_string_equal(config_word(&c, cases[i].key), cases[i].word);
    }
    const Config c = parsed(WITH_DIR, 0, NULL);
    assert_string_equal(config_word(&c, "train.seed"), "");
}

static void word_values(void **state) {
    (void)state;
    char *words[] = {"train.output_dir=2024", "train.seed=7",         "kto.beta=2",
                     "model.dtype=float32",   "data.train=\"a b=c\"", "lora.target_modules=[\"q_proj\", \"down_proj\"]",
                     "data.order=sequential", "log.swmr=false",       "kto.undesirable_weight=auto",
                     "data.max_length=+300",  "train.max_steps=-1",   "data.reference_cache="};
    Config c = parsed(WITH_DIR, sizeof words / sizeof *words, words);
    assert_string_equal(c.train.output_dir, "2024");
    assert_int_equal(c.train.seed, 7);
    assert_true(c.kto.beta == 2.0 && isnan(c.kto.undesirable_weight));
    assert_string_equal(c.data.train, "a b=c");
    assert_string_equal(c.lora.target_modules, "q_proj,down_proj");
    assert_int_equal(c.data.order, ORDER_SEQUENTIAL);
    assert_false(c.log.swmr);
    assert_int_equal(c.data.max_length, 300);

    char *all[] = {"lora.target_modules=all-linear"}, *two[] = {"lora.target_modules=k_proj,v_proj"};
    c = parsed(WITH_DIR, 1, all);
    assert_string_equal(c.lora.target_modules, "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj");
    c = parsed(WITH_DIR, 1, two);
    assert_string_equal(c.lora.target_modules, "k_proj,v_proj");
}

static void refused_in_file(void **state) {
    (void)state;
    static const struct {
        const char *line4, *message;
    } cases[] = {
        {"train: { output_dir = \"o\"; learning_rate = -1; }",
         "demo.cfg:4: train.learning_rate = -1 is out of range; it must be > 0"},
        {"train: { learnin_rate = 1; }",
         "demo.cfg:4: unknown key train.learnin_rate; did you mean train.learning_rate?"},
        {"trian: {\n seed = 1; }", "demo.cfg:5: unknown key trian.seed; did you mean train.seed?"},
        {"seed = 1;", "demo.cfg:4: unknown key seed; did you mean train.seed?"},
        {"flux = 1;", "demo.cfg:4: unknown key flux; kto help keys lists them all"},
        {"train = 5;", "demo.cfg:4: train is a group; write train: { ... }"},
        {"lora: { r = 4294967304; }", "demo.cfg:4: lora.r = 4294967304 is out of range; it must be 1 to 1024"},
        {"lora: { r = 99999999999999999999; }",
         "demo.cfg:4: lora.r = 99999999999999999999 is out of range; it must be 1 to 1024"},
        {"lora: { alpha = 1; r = 18446744073709551624L; dropout = 0; }",
         "demo.cfg:4: lora.r = 18446744073709551624L is out of range; it must be 1 to 1024"},
        {"lora: { r = 8.5; }", "demo.cfg:4: lora.r = 8.5 is a float; it must be an integer"},
        {"lora: { r = \"8\"; }", "demo.cfg:4: lora.r = \"8\" is a string; it must be an integer"},
        {"lora: { dropout = 1.0; }", "demo.cfg:4: lora.dropout = 1.0 is out of range; it must be >= 0 and < 1"},
        {"lora: { target_modules = [\"q_proj\",\n \"qproj\"]; }",
         "demo.cfg:4: lora.target_modules names \"qproj\", which is no linear layer of a Llama block; take q_proj, "
         "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj or \"all-linear\""},
        {"lora: { target_modules = []; }",
         "demo.cfg:4: lora.target_modules is empty; name at least one module, e.g. [\"q_proj\", \"v_proj\"]"},
        {"lora: { target_modules = 3; }",
         "demo.cfg:4: lora.target_modules = 3 is an integer; it must be a list of module names"},
        {"kto: { beta = 0; }", "demo.cfg:4: kto.beta = 0 is out of range; it must be > 0"},
        {"kto: { beta = 1e999; }", "demo.cfg:4: kto.beta = 1e999 is out of range; it must be at most 1000000"},
        {"kto: { beta = 1e-999; }", "demo.cfg:4: kto.beta = 1e-999 is out of range; it must be > 0"},
        {"kto: { beta = \"auto\"; }", "demo.cfg:4: kto.beta = \"auto\" is a string; it must be a number"},
        {"kto: { desirable_weight = \"automatic\"; }",
         "demo.cfg:4: kto.desirable_weight = \"automatic\" is a string; it must be a number or \"auto\""},
        {"kto: { loss_type = \"ipo\"; }",
         "demo.cfg:4: kto.loss_type = \"ipo\" is not known; it must be \"kto\", \"apo_zero_unpaired\" or \"dpo\""},
        {"log: { swmr = 1; }", "demo.cfg:4: log.swmr = 1 is an integer; it must be true or false"},
        {"log: { swmr: { a = 1; } }", "demo.cfg:4: log.swmr is a group; it must be true or false"},
        {"train: { output_dir = \"\"; }", "demo.cfg:4: train.output_dir is empty; give the run directory"},
        {"train: { output_dir = 5; }", "demo.cfg:4: train.output_dir = 5 is an integer; it must be a string"},
        {"train: { max_steps = 0; }", "demo.cfg:4: train.max_steps = 0 is out of range; it must be -1 or > 0"},
        {"@include \"other.cfg\"", "demo.cfg:4: @include is not supported; put everything into one file"},
        {"log: { swmr = true; swmr = true; }",
         "demo.cfg:4: duplicate setting name; give each key once, and each group once"},
        {"log: { swmr = }", "demo.cfg:4: syntax error; write key = value; in group: { ... }"},
        {"", "demo.cfg: train.output_dir is missing; give the run directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2048];
        snprintf(text, sizeof text, NEEDED "%s\n", cases[i].line4);
        expect_refused(text, 0, NULL, cases[i].message);
    }
}

static void refused_words(void **state) {
    (void)state;
    static const struct {
        char *word, *message;
    } cases[] = {
        {"learnin_rate=1", "learnin_rate=1: unknown key learnin_rate; did you mean train.learning_rate?"},
        {"train.seed", "train.seed: is not key=value; write e.g. train.seed=42"},
        {"=1", "=1: is not key=value; write e.g. train.seed=42"},
        {"train.seed=-1", "train.seed=-1: train.seed = -1 is out of range; it must be 0 to 9007199254740992"},
        {"train.seed=", "train.seed=: train.seed = \"\" is a string; it must be an integer"},
        {"train.seed=1.0", "train.seed=1.0: train.seed = 1.0 is a float; it must be an integer"},
        {"kto.beta=nan", "kto.beta=nan: kto.beta = \"nan\" is a string; it must be a number"},
        {"kto.beta=inf", "kto.beta=inf: kto.beta = \"inf\" is a string; it must be a number"},
        {"kto.beta=0.1x", "kto.beta=0.1x: kto.beta = \"0.1x\" is a string; it must be a number"},
        {"train.output_dir=", "train.output_dir=: train.output_dir is empty; give the run directory"},
        {"data.today=tomorrow", "data.today=tomorrow: data.today = \"tomorrow\" is a string; it must be an integer"},
        {"data.max_prompt_length=1024",
         "data.max_prompt_length=1024: data.max_prompt_length = 1024 is not below data.max_length = 1024, so a prompt "
         "could fill the whole length and every answer would be cut to nothing; raise max_length or lower "
         "max_prompt_length"},
        {"train.eval_steps=5", "train.eval_steps=5: train.eval_steps = 5 has no rows to evaluate; set data.eval"},
        {"train.sample_steps=5",
         "train.sample_steps=5: train.sample_steps = 5 has no prompts to answer; set train.sample_prompts"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(WITH_DIR, 1, &cases[i].word, cases[i].message);

    char *twice[] = {"train.seed=1", "train.seed=1"};
    expect_refused(WITH_DIR, 2, twice, "train.seed=1: train.seed is given twice; give it once");
    char *autos[] = {"kto.desirable_weight=auto", "kto.undesirable_weight=auto"};
    expect_refused(
        WITH_DIR, 2, autos,
        "kto.undesirable_weight=auto: kto.desirable_weight and kto.undesirable_weight are both \"auto\", and "
        "each would wait for the other; give one of them a number, e.g. 1.0");

    char *weighed[] = {"kto.loss_type=dpo", "kto.undesirable_weight=1.33"};
    expect_refused(WITH_DIR, 2, weighed,
                   "kto.undesirable_weight=1.33: kto.undesirable_weight = 1.33 weighs rows of one label, and with "
                   "kto.loss_type = \"dpo\" a row is a pair of both; remove it, and give single pairs a \"weight\" in "
                   "their rows if that is meant");
    weighed[1] = "kto.desirable_weight=auto";
    expect_refused(WITH_DIR, 2, weighed,
                   "kto.desirable_weight=auto: kto.desirable_weight = \"auto\" weighs rows of one label, and with "
                   "kto.loss_type = \"dpo\" a row is a pair of both; remove it, and give single pairs a \"weight\" in "
                   "their rows if that is meant");
    weighed[1] = "kto.desirable_weight=1";
    Config dpo;
    assert_int_equal(parse(&dpo, WITH_DIR, 2, weighed), STATUS_OK);
    assert_true(dpo.kto.loss_type == LOSS_DPO && dpo.kto.beta == 0.1);

    char longest[64 + CONFIG_TEXT_MAX] = "data.eval=";
    memset(longest + strlen(longest), 'x', CONFIG_TEXT_MAX);
    char *word = longest;
    Config config;
    assert_int_equal(parse(&config, WITH_DIR, 1, &word), STATUS_USAGE);
    longest[strlen("data.eval=") + CONFIG_TEXT_MAX - 1] = '\0';
    assert_int_equal(parse(&config, WITH_DIR, 1, &word), STATUS_OK);
    assert_int_equal(strlen(config.data.eval), CONFIG_TEXT_MAX - 1);
}

// The pair of the post that reported empty answers.
static void prompt_as_long_as_all(void **state) {
    (void)state;
    expect_refused(
        "model: { path = \"m\"; };\ndata: { train = \"t\"; max_length = 128;\n max_prompt_length = 256; };\n"
        "train: { output_dir = \"o\"; };\n",
        0, NULL,
        "demo.cfg:3: data.max_prompt_length = 256 is not below data.max_length = 128, so a prompt could fill "
        "the whole length and every answer would be cut to nothing; raise max_length or lower "
        "max_prompt_length");
}

static void text_reads_back(void **state) {
    (void)state;
    Config a = parsed(WITH_DIR, 0, NULL);
    // Neighbours of round numbers, which a short print would lose; strings that need escapes; words and large integers.
    a.kto.beta = nextafter(0.1, 1);
    a.train.learning_rate = 1.0 / 3.0;
    a.train.adam_epsilon = 5e-324;
    a.train.weight_decay = 1000;
    a.kto.undesirable_weight = 1e6;
    a.kto.desirable_weight = NAN;
    a.train.seed = (int64_t)1 << 53;
    strcpy(a.lora.target_modules, "q_proj,v_proj,down_proj");
    strcpy(a.model.path, "a\\b \"c\"\t\x01\xc3\xa9");
    strcpy(a.data.chat_template, "llama-2");
    char *text = config_text(&a);
    assert_non_null(text);
    Config b = parsed(text, 0, NULL);
    assert_true(isnan(b.kto.desirable_weight));
    a.kto.desirable_weight = b.kto.desirable_weight; // a NaN's bits are not compared
    assert_memory_equal(&a, &b, sizeof a);
    char *again = config_text(&b);
    assert_string_equal(text, again);
    free(text);
    free(again);
}

static void same_run(void **state) {
    (void)state;
    char key[64], x[256], y[256];
    Config a = parsed(WITH_DIR, 0, NULL), b = a;
    assert_true(config_same_run(&a, &b, key, x, y));
    assert_string_equal(key, "");
    strcpy(b.train.output_dir, "elsewhere");
    b.train.logging_steps = 9;
    b.device.timeout_seconds = 1;
    b.log.swmr = false;
    assert_true(config_same_run(&a, &b, key, x, y));
    b.kto.beta = 0.25;
    assert_false(config_same_run(&a, &b, key, x, y));
    assert_string_equal(key, "kto.beta");
    assert_string_equal(x, "0.1");
    assert_string_equal(y, "0.25");
    b = a;
    b.train.max_steps = 10;
    assert_false(config_same_run(&a, &b, key, x, y));
    assert_string_equal(key, "train.max_steps");
    a.train.lr_scheduler_type = b.train.lr_scheduler_type = SCHEDULER_CONSTANT;
    assert_true(config_same_run(&a, &b, key, x, y));
    // Paths that differ only past the 256 bytes that the message can hold.
    memset(a.data.train, 'x', 1000);
    memcpy(b.data.train, a.data.train, sizeof b.data.train);
    b.data.train[999] = 'y';
    assert_false(config_same_run(&a, &b, key, x, y));
    assert_string_equal(key, "data.train");
    assert_int_equal(strlen(x), 255);
}

static void files(void **state) {
    (void)state;
    Config config;
    error_clear();
    assert_int_equal(config_load(&config, modules, "no/such.cfg", 0, NULL), STATUS_USAGE);
    assert_string_equal(error_text(), "no/such.cfg: No such file or directory");

    char path[] = "/tmp/kto-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, WITH_DIR, strlen(WITH_DIR)), strlen(WITH_DIR));
    error_clear();
    assert_int_equal(config_load(&config, modules, path, 0, NULL), STATUS_OK);
    assert_string_equal(config.train.output_dir, "out");
    assert_int_equal(write(fd, "\0x", 2), 2);
    assert_int_equal(config_load(&config, modules, path, 0, NULL), STATUS_USAGE);
    close(fd);
    unlink(path);
}

static void help_names_every_key(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    assert_true(config_help(to, NULL, 200));
    fclose(to);
    assert_non_null(strstr(text, "train.learning_rate"));
    assert_non_null(strstr(text, "> 0; default 5e-4"));
    assert_non_null(strstr(text, "\"kto\", \"apo_zero_unpaired\" or \"dpo\"; default \"kto\")"));
    free(text);
}

static void keys_one_by_one(void **state) {
    (void)state;
    ConfigKey key;
    int count = 0, found = 0;
    for (; config_key(count, modules, &key); count++) {
        assert_int_equal(key.name[key.group], '.');
        if (strcmp(key.name, "model.path") == 0) {
            found++;
            assert_true(key.needed && key.path && key.alters);
            assert_string_equal(key.preset, "");
            assert_null(key.words[0]);
        } else if (strcmp(key.name, "lora.target_modules") == 0) {
            found++;
            assert_true(key.list && !key.needed && !key.path);
            assert_string_equal(key.preset, "[\"q_proj\", \"v_proj\"]");
            assert_string_equal(key.words[0], "q_proj");
            assert_string_equal(key.words[7], "all-linear");
            assert_null(key.words[8]);
        } else if (strcmp(key.name, "log.swmr") == 0) {
            found++;
            assert_false(key.alters);
            assert_string_equal(key.words[0], "true");
            assert_string_equal(key.words[1], "false");
            assert_null(key.words[2]);
        } else if (strcmp(key.name, "data.order") == 0) {
            found++;
            assert_string_equal(key.preset, "\"shuffle\"");
            assert_string_equal(key.takes, "\"shuffle\" or \"sequential\"");
            assert_string_equal(key.words[1], "sequential");
            assert_null(key.words[2]);
        }
    }
    assert_int_equal(found, 4);
    assert_false(config_key(-1, modules, &key));
    assert_false(config_help(stderr, "no such group", 80));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(file_values),
        cmocka_unit_test(word_values),
        cmocka_unit_test(enums_are_words),
        cmocka_unit_test(refused_in_file),
        cmocka_unit_test(refused_words),
        cmocka_unit_test(prompt_as_long_as_all),
        cmocka_unit_test(text_reads_back),
        cmocka_unit_test(same_run),
        cmocka_unit_test(files),
        cmocka_unit_test(help_names_every_key),
        cmocka_unit_test(keys_one_by_one),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
