// Quantiles and text histograms of lengths.
#include "src/data/lengths.h"

#include <stdlib.h>
#include <string.h>

#define BINS_MAX  12
#define BAR_WIDTH 40

static int by_value(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

Lengths lengths_of(int32_t *values, int64_t count) {
    static const int per_cent[QUANTILES] = {0, 10, 50, 90, 99, 100};
    Lengths out = {.count = count};
    if (count == 0) return out;
    double sum = 0;
    qsort(values, (size_t)count, sizeof *values, by_value);
    for (int64_t i = 0; i < count; i++) sum += values[i];
    for (int q = 0; q < QUANTILES; q++) {
        const int64_t rank = (per_cent[q] * count + 99) / 100; // from 1
        out.quantile[q] = values[rank > 0 ? rank - 1 : 0];
    }
    out.mean = sum / (double)count;
    return out;
}

// The smallest of 1, 2, 5, 10, 20, ... that covers `range` values in the bins.
static int64_t bin_width(int64_t range) {
    for (int64_t ten = 1;; ten *= 10)
        for (int i = 0; i < 3; i++) {
            const int64_t width = ten * (const int[]){1, 2, 5}[i];
            if (range <= width * (BINS_MAX - 1)) return width; // one more bin, as the first may begin before the least
        }
}

void lengths_histogram(const int32_t *values, int64_t count, const char *indent, FILE *to) {
    if (count == 0) return;
    const int64_t least = values[0], most = values[count - 1], high = values[(99 * count + 99) / 100 - 1];
    const int64_t width = bin_width(high - least + 1), first = least / width * width;
    const int bins = (int)((high - first) / width + 1);
    int64_t in_bin[BINS_MAX] = {0}, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t bin = (values[i] - first) / width;
        if (bin >= bins) bin = bins - 1;
        in_bin[bin]++;
    }
    for (int b = 0; b < bins; b++) largest = in_bin[b] > largest ? in_bin[b] : largest;
    for (int b = 0; b < bins; b++) {
        const int64_t low = first + b * width, end = low + width - 1;
        char range[64], bar[BAR_WIDTH + 1] = "";
        if (b == bins - 1 && most > end)
            snprintf(range, sizeof range, "%lld or more", (long long)low);
        else if (width == 1)
            snprintf(range, sizeof range, "%lld", (long long)low);
        else
            snprintf(range, sizeof range, "%lld to %lld", (long long)low, (long long)end);
        int length = (int)(in_bin[b] * BAR_WIDTH / largest);
        if (length == 0 && in_bin[b] > 0) length = 1;
        memset(bar, '#', (size_t)length);
        fprintf(to, "%s%16s |%-*s %lld\n", indent, range, BAR_WIDTH, bar, (long long)in_bin[b]);
    }
}
