// Small words of `kto log` on standard output. What is written with them is decided in log_summary.c, for people, and
// in log_rows.c, row by row.
#include "src/commands/log_output.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

bool log_wants(const LogOptions *options, int group) {
    return options->group < 0 || options->group == group;
}

int log_columns(const LogOptions *options, const int *others, int other_count, const int **out) {
    *out = options->column_count > 0 ? options->columns : others;
    return options->column_count > 0 ? options->column_count : other_count;
}

const char *log_number(double value, char out[32]) {
    if (isnan(value)) return "-";
    snprintf(out, 32, fabs(value) >= 1e-2 && fabs(value) < 1e5 ? "%.4f" : value == 0 ? "%.0f" : "%.3e", value);
    return out;
}

// The end of a long name says which run it is.
void log_print_name(const char *name, int cells) {
    const int length = (int)strlen(name);
    if (length > cells)
        printf("..%s", name + length - (cells - 2));
    else
        printf("%-*s", cells, name);
}

Status log_end_output(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return STATUS_OK;
    return error_set(STATUS_FAILED, "standard output: %s", strerror(errno));
}

Status log_refuse_empty(const char *name) {
    return error_set(STATUS_DATA, "%s: has no step in its log yet; kto log %s --follow waits for the first", name,
                     name);
}
