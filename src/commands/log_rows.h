// Every row of runs: as CSV or JSON lines for programs, or a line each for people, once or as they come (--follow).
// Summaries and curves are log_summary.h's.
#pragma once
#include "src/commands/log_output.h"

// Of the runs names[count], to standard output. With options->follow until all are finished, or SIGINT or SIGTERM.
// STATUS_USAGE for what is no run, STATUS_DATA for a single one without a step (unless it is followed).
Status log_rows(char **names, int count, const LogOptions *options);
