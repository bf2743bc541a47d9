// The summary of runs for people: of one run its state, settings, speed and metrics; of several a table and what their
// configurations differ in; and curves of both. Rows for programs, and rows as they come, are log_rows.h's.
#pragma once
#include "src/commands/log_output.h"

// Of the runs names[count], to standard output. STATUS_USAGE for what is no run, STATUS_DATA where none has a step yet.
Status log_summary(char **names, int count, const LogOptions *options);
