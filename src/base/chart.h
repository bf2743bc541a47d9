// Curves drawn with characters: braille dots in a terminal, plain ASCII elsewhere. It knows numbers and titles, and not
// what they mean.
#pragma once
#include "src/base/status.h"
#include <stdint.h>
#include <stdio.h>

typedef enum ChartForm {
    CHART_LINE,        // values that share a place become their mean
    CHART_POINTS,      // a mark at each value
    CHART_LINE_POINTS, // both
} ChartForm;

typedef struct ChartSeries {
    const char *name;    // in the legend, which a chart of several series has; NULL: not in it
    const double *x, *y; // [count]; x ascends; values that are not finite are passed over
    int64_t count;
    ChartForm form;
} ChartSeries;

typedef struct Chart {
    const char *title; // ASCII
    const ChartSeries *series;
    int count;
} Chart;

typedef struct ChartStyle {
    int width;   // of everything, in cells
    int height;  // of a plot's area, in cells
    bool ascii;  // no braille
    bool colour; // by ANSI sequences
} ChartStyle;

// The width of the terminal that `to` is, else 80; colours on a terminal that has them, unless NO_COLOR is set.
ChartStyle chart_style(FILE *to, bool ascii);
// One below the other, or in two columns where the style is wide enough.
Status chart_draw(const Chart *charts, int count, const ChartStyle *style, FILE *to);

#define CHART_KEY_MAX 32
// How series `index` of `count` lines looks, one cell wide. Lines that colours do not tell apart are drawn as letters.
const char *chart_key(const ChartStyle *style, int index, int count, char key[CHART_KEY_MAX]);
