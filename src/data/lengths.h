// Lengths of many texts, as a person reads them: quantiles and a histogram.
#pragma once
#include <stdint.h>
#include <stdio.h>

typedef enum Quantile { Q_LEAST, Q_10, Q_50, Q_90, Q_99, Q_MOST, QUANTILES } Quantile;

typedef struct Lengths {
    int64_t count;
    int64_t quantile[QUANTILES]; // the smallest value that so many per cent do not exceed; 0 of no values
    double mean;
} Lengths;

// Sorts values[count] and sums them up.
Lengths lengths_of(int32_t *values, int64_t count);

// A line a bin, from the least to the 99th of a hundred in at most a dozen bins of round width, the last of them open
// where more is left. values[count] as lengths_of left them.
void lengths_histogram(const int32_t *values, int64_t count, const char *indent, FILE *to);
