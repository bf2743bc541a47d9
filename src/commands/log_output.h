// What the summary and the rows of `kto log` have in common: which columns and groups are wanted, and how numbers,
// names and the end of the output are written.
#pragma once
#include "io/metrics.h"

#define LOG_NAME_CELLS 24 // of a run's name at most
#define LENGTH(array)  ((int)(sizeof(array) / sizeof *(array)))

typedef struct LogOptions {
    const char *metrics; // NULL: those that matter
    int group;           // MetricsGroup; -1: both
    bool follow, csv, json, ascii;
    int columns[METRICS_COLUMN_COUNT], column_count; // from `metrics`; 0: not given
} LogOptions;

bool log_wants(const LogOptions *options, int group);
// The columns that were named, or else others[other_count]; returns how many.
int log_columns(const LogOptions *options, const int *others, int other_count, const int **out);
const char *log_number(double value, char out[32]); // "-" for NaN
// Padded to `cells`; of a longer name its end.
void log_print_name(const char *name, int cells);
Status log_end_output(void);               // STATUS_FAILED when standard output took not all
Status log_refuse_empty(const char *name); // STATUS_DATA: the run has no step yet
