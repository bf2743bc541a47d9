// Each chart is a canvas of cells that hold braille dots (two by four pixels), or one character each in plain style. A
// line's values are first averaged within a pixel's column, so that a noisy curve of many thousand steps stays a curve.
#include "src/base/chart.h"

#include "src/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    LABEL_CELLS = 9, // of the vertical axis; a blank and the axis itself follow
    WIDTH_MIN = 40,
    WIDTH_MAX = 400,
    TWO_COLUMNS = 120, // cells from which on charts stand side by side
    GAP = 2,
    ROWS_A_TICK = 3,
    CELLS_A_TICK = 14,
    TICK_TEXT = 32
};

typedef struct Cell {
    uint8_t dots;   // braille
    char letter;    // in their place: of a line
    bool point;     // over both
    uint8_t series; // whose colour
} Cell;

typedef struct Canvas {
    const Chart *chart;
    const ChartStyle *style;
    int columns, rows;   // cells of the plot's area
    int across, down;    // pixels of a cell
    bool letters;        // lines are told apart by letters
    double first, last;  // x of the first and last pixel's column
    double low, high;    // y of the last and first pixel's row
    double *means;       // [series, columns * across]; NaN: no value there
    Cell *cell;          // [rows, columns]
    char *label, *below; // [rows, TICK_TEXT]; [columns + TICK_TEXT]
} Canvas;

static const int COLOURS[] = {36, 33, 32, 35, 34, 31}; // cyan, yellow, green, magenta, blue, red
#define COLOUR_OF(series) (COLOURS[(series) % (int)(sizeof COLOURS / sizeof *COLOURS)])
#define LETTER_OF(series) ((char)('a' + (series) % 26))

ChartStyle chart_style(FILE *to, bool ascii) {
    struct winsize size;
    const bool terminal = isatty(fileno(to)) != 0;
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    ChartStyle style = {.width = 80, .height = 10, .ascii = ascii};
    if (terminal && ioctl(fileno(to), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) style.width = size.ws_col;
    if (style.width < WIDTH_MIN) style.width = WIDTH_MIN;
    if (style.width > WIDTH_MAX) style.width = WIDTH_MAX;
    style.colour = terminal && (none == NULL || *none == '\0') && term != NULL && strcmp(term, "dumb") != 0;
    return style;
}

// --- scales ---------------------------------------------------------------------------------------------------------

// The least of 1, 2, 5, 10, 20 ... times a power of ten that is not below `least`.
static double nice_step(double least) {
    const double power = pow(10, floor(log10(least)));
    for (int i = 0; i < 3; i++) {
        static const double steps[] = {1, 2, 5};
        if (steps[i] * power >= least * (1 - 1e-9)) return steps[i] * power;
    }
    return 10 * power;
}

static void tick_text(double value, double step, char out[TICK_TEXT]) {
    const double size = fabs(value) > step ? fabs(value) : step;
    if (fabs(value) < step * 1e-6) value = 0;
    const int decimals = (int)ceil(-log10(step) - 1e-9);
    if (size >= 1e6 || size < 1e-3)
        snprintf(out, TICK_TEXT, "%.3g", value);
    else
        snprintf(out, TICK_TEXT, "%.*f", decimals > 0 ? decimals : 0, value);
}

static int pixel_row(const Canvas *c, double y) {
    const double rows = c->rows * c->down - 1, row = (c->high - y) / (c->high - c->low) * rows;
    return (int)lround(fmin(fmax(row, 0), rows)); // also of numbers whose difference is none
}

static int pixel_column(const Canvas *c, double x) {
    if (!(c->last > c->first)) return 0;
    return (int)lround((x - c->first) / (c->last - c->first) * (c->columns * c->across - 1));
}

static bool has_line(const ChartSeries *series) {
    return series->form != CHART_POINTS;
}

static void measure_x(Canvas *c) {
    c->first = INFINITY;
    c->last = -INFINITY;
    for (int s = 0; s < c->chart->count; s++)
        for (int64_t i = 0; i < c->chart->series[s].count; i++) {
            c->first = fmin(c->first, c->chart->series[s].x[i]);
            c->last = fmax(c->last, c->chart->series[s].x[i]);
        }
}

// Fills `means`.
static Status average(Canvas *c) {
    const int pixels = c->columns * c->across;
    int64_t *counts = NULL;
    TRY(MEMORY_ALLOC(counts, pixels, "a chart"));
    for (int s = 0; s < c->chart->count; s++) {
        const ChartSeries *series = &c->chart->series[s];
        double *means = c->means + (size_t)s * (size_t)pixels;
        memset(counts, 0, (size_t)pixels * sizeof *counts);
        for (int64_t i = 0; i < series->count && has_line(series); i++) {
            if (!isfinite(series->y[i])) continue;
            const int at = pixel_column(c, series->x[i]);
            means[at] += series->y[i];
            counts[at]++;
        }
        for (int p = 0; p < pixels; p++) means[p] = counts[p] == 0 ? NAN : means[p] / (double)counts[p];
    }
    free(counts);
    return STATUS_OK;
}

// Of what will be drawn; false: nothing.
static bool measure_y(Canvas *c) {
    const int pixels = c->columns * c->across * c->chart->count;
    c->low = INFINITY;
    c->high = -INFINITY;
    for (int p = 0; p < pixels; p++) {
        c->low = fmin(c->low, c->means[p]); // of a number and NaN the number
        c->high = fmax(c->high, c->means[p]);
    }
    for (int s = 0; s < c->chart->count; s++) {
        const ChartSeries *series = &c->chart->series[s];
        for (int64_t i = 0; i < series->count && series->form != CHART_LINE; i++) {
            if (!isfinite(series->y[i])) continue;
            c->low = fmin(c->low, series->y[i]);
            c->high = fmax(c->high, series->y[i]);
        }
    }
    if (!(c->low <= c->high)) return false;
    if (c->high - c->low <= fabs(c->high) * 1e-9) { // a flat line runs in the middle
        const double room = c->high == 0 ? 1 : fabs(c->high) / 2;
        c->low -= room;
        c->high += room;
    }
    return true;
}

// --- drawing --------------------------------------------------------------------------------------------------------

static void set_pixel(Canvas *c, int column, int row, int series) {
    static const uint8_t bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    Cell *cell = &c->cell[row / c->down * c->columns + column / c->across];
    if (c->down == 1)
        cell->letter = c->letters ? LETTER_OF(series) : '.';
    else
        cell->dots |= bits[row % c->down][column % c->across];
    cell->series = (uint8_t)series;
}

// From one value to the next, without a gap where it is steep. Letters have one a column.
static void draw_between(Canvas *c, int series, int from, double y_from, int to, double y_to) {
    int before = pixel_row(c, y_from);
    for (int column = from + 1; column <= to; column++) {
        const int row = pixel_row(c, y_from + (y_to - y_from) * (column - from) / (to - from));
        const int step = row > before ? 1 : -1;
        for (int r = before + step; !c->letters && r != row && before != row; r += step)
            set_pixel(c, column, r, series);
        set_pixel(c, column, row, series);
        before = row;
    }
}

static void draw_line(Canvas *c, int series) {
    const int pixels = c->columns * c->across;
    const double *means = c->means + (size_t)series * (size_t)pixels;
    int last = -1;
    for (int p = 0; p < pixels; p++) {
        if (isnan(means[p])) continue;
        if (last < 0)
            set_pixel(c, p, pixel_row(c, means[p]), series);
        else
            draw_between(c, series, last, means[last], p, means[p]);
        last = p;
    }
}

static void draw_points(Canvas *c, int s) {
    const ChartSeries *series = &c->chart->series[s];
    for (int64_t i = 0; i < series->count; i++) {
        if (!isfinite(series->y[i])) continue;
        const int row = pixel_row(c, series->y[i]) / c->down, column = pixel_column(c, series->x[i]) / c->across;
        c->cell[row * c->columns + column].point = true;
        c->cell[row * c->columns + column].series = (uint8_t)s;
    }
}

static void label_rows(Canvas *c) {
    double step = nice_step((c->high - c->low) * ROWS_A_TICK / c->rows);
    while (floor(c->high / step) - ceil(c->low / step) < 1 && isfinite(step))
        step = nice_step(step * 0.4); // two at least
    for (double tick = ceil(c->low / step) * step; tick <= c->high + step * 1e-9; tick += step)
        tick_text(tick, step, c->label + (size_t)(pixel_row(c, tick) / c->down) * TICK_TEXT);
}

// The text below the axis: steps, and what they are.
static void label_columns(Canvas *c, bool *tick_at) {
    memset(c->below, ' ', (size_t)c->columns);
    memcpy(c->below + c->columns - 4, "step", 4);
    double step = nice_step((c->last - c->first) * CELLS_A_TICK / c->columns);
    if (!(step >= 1)) step = 1; // also where there is one value only
    int free_from = 0;
    for (double tick = ceil(c->first / step) * step; tick <= c->last; tick += step) {
        char text[TICK_TEXT];
        tick_text(tick, step, text);
        const int length = (int)strlen(text), column = pixel_column(c, tick) / c->across;
        int at = column - length / 2;
        if (at < 0) at = 0;
        if (at < free_from || at + length > c->columns - 5) continue;
        memcpy(c->below + at, text, (size_t)length);
        tick_at[column] = true;
        free_from = at + length + 1;
    }
}

static void put_dots(uint8_t dots, FILE *to) {
    // U+2800 + dots in UTF-8
    fprintf(to, "\xe2%c%c", 0xa0 | dots >> 6, 0x80 | (dots & 0x3f));
}

static void put_cell(const Canvas *c, const Cell *cell, FILE *to) {
    if (!cell->point && cell->dots == 0 && cell->letter == 0) {
        fputc(' ', to);
        return;
    }
    if (c->style->colour) fprintf(to, "\033[%dm", COLOUR_OF(cell->series));
    if (cell->point)
        fputs(c->style->ascii ? (c->letters ? "*" : "o") : "●", to);
    else if (cell->letter != 0)
        fputc(cell->letter, to);
    else
        put_dots(cell->dots, to);
    if (c->style->colour) fputs("\033[0m", to);
}

const char *chart_key(const ChartStyle *style, int index, int count, char key[CHART_KEY_MAX]) {
    if (!style->colour && count > 1)
        snprintf(key, CHART_KEY_MAX, "%c", LETTER_OF(index));
    else if (style->colour)
        snprintf(key, CHART_KEY_MAX, "\033[%dm%s\033[0m", COLOUR_OF(index), style->ascii ? "-" : "━");
    else
        snprintf(key, CHART_KEY_MAX, "%s", style->ascii ? "." : "━");
    return key;
}

static int count_lines(const Chart *chart) {
    int lines = 0;
    for (int s = 0; s < chart->count; s++) lines += has_line(&chart->series[s]);
    return lines;
}

// Title and legend, in exactly the chart's width.
static void put_title(const Canvas *c, FILE *to) {
    const int width = LABEL_CELLS + 2 + c->columns;
    int used = fprintf(to, "%*s%.*s", LABEL_CELLS + 2, "", c->columns, c->chart->title);
    for (int s = 0; s < c->chart->count; s++) {
        const ChartSeries *series = &c->chart->series[s];
        char key[CHART_KEY_MAX];
        if (series->name == NULL || used + 5 + (int)strlen(series->name) > width) continue;
        chart_key(c->style, s, count_lines(c->chart), key);
        if (!has_line(series)) {
            const char *mark = c->style->ascii ? "o" : "●";
            if (c->style->colour)
                snprintf(key, sizeof key, "\033[%dm%s\033[0m", COLOUR_OF(s), mark);
            else
                snprintf(key, sizeof key, "%s", mark);
        }
        fprintf(to, "   %s %s", key, series->name);
        used += 5 + (int)strlen(series->name);
    }
    fprintf(to, "%*s", width - used, "");
}

static void put_row(const Canvas *c, int row, FILE *to) {
    const char *label = c->label + (size_t)row * TICK_TEXT;
    const char *axis = c->style->ascii ? "|" : *label == '\0' ? "│" : "┤";
    fprintf(to, "%*s %s", LABEL_CELLS, label, axis);
    for (int column = 0; column < c->columns; column++) put_cell(c, &c->cell[row * c->columns + column], to);
}

static void put_axis(const Canvas *c, const bool *tick_at, FILE *to) {
    fprintf(to, "%*s %s", LABEL_CELLS, "", c->style->ascii ? "+" : "└");
    for (int column = 0; column < c->columns; column++)
        fputs(c->style->ascii ? (tick_at[column] ? "+" : "-") : (tick_at[column] ? "┬" : "─"), to);
}

static void free_canvas(Canvas *c) {
    free(c->means);
    free(c->cell);
    free(c->label);
    free(c->below);
}

static Status draw_canvas(Canvas *c, const Chart *chart, const ChartStyle *style, int width, bool *tick_at) {
    *c = (Canvas){.chart = chart, .style = style, .columns = width - LABEL_CELLS - 2, .rows = style->height};
    c->letters = !style->colour && count_lines(chart) > 1;
    const bool dots = !style->ascii && !c->letters;
    c->across = dots ? 2 : 1;
    c->down = dots ? 4 : 1;
    TRY(MEMORY_ALLOC(c->means, c->columns * c->across * chart->count, "a chart"));
    TRY(MEMORY_ALLOC(c->cell, c->rows * c->columns, "a chart"));
    TRY(MEMORY_ALLOC(c->label, c->rows * TICK_TEXT, "a chart"));
    TRY(MEMORY_ALLOC(c->below, c->columns + 1, "a chart"));
    measure_x(c);
    TRY(average(c));
    if (!measure_y(c)) {
        memset(c->below, ' ', (size_t)c->columns);
        const char *none = "(no number)";
        for (int i = 0; none[i] != '\0'; i++) c->cell[c->rows / 2 * c->columns + 2 + i].letter = none[i];
        return STATUS_OK;
    }
    label_rows(c);
    label_columns(c, tick_at);
    for (int s = 0; s < chart->count; s++)
        if (has_line(&chart->series[s])) draw_line(c, s);
    for (int s = 0; s < chart->count; s++)
        if (chart->series[s].form != CHART_LINE) draw_points(c, s);
    return STATUS_OK;
}

// One or two charts in the same lines.
static Status draw_beside(const Chart *charts, int count, const ChartStyle *style, int width, FILE *to) {
    Canvas canvas[2] = {{0}};
    bool tick_at[2][WIDTH_MAX] = {{0}};
    Status status = STATUS_OK;
    for (int i = 0; i < count && status == STATUS_OK; i++)
        status = draw_canvas(&canvas[i], &charts[i], style, width, tick_at[i]);
    const int last = style->height + 1; // title, rows, axis, steps
    for (int line = -1; line <= last && status == STATUS_OK; line++) {
        for (int i = 0; i < count; i++) {
            const Canvas *c = &canvas[i];
            if (i > 0) fprintf(to, "%*s", GAP, "");
            if (line < 0)
                put_title(c, to);
            else if (line < style->height)
                put_row(c, line, to);
            else if (line < last)
                put_axis(c, tick_at[i], to);
            else
                fprintf(to, "%*s%s", LABEL_CELLS + 2, "", c->below);
        }
        fputc('\n', to);
    }
    for (int i = 0; i < count; i++) free_canvas(&canvas[i]);
    return status;
}

Status chart_draw(const Chart *charts, int count, const ChartStyle *style, FILE *to) {
    const int beside = style->width >= TWO_COLUMNS && count > 1 ? 2 : 1;
    const int width = (style->width - (beside - 1) * GAP) / beside;
    for (int i = 0; i < count; i += beside) {
        if (i > 0) fputc('\n', to);
        TRY(draw_beside(charts + i, count - i < beside ? count - i : beside, style, width, to));
    }
    return STATUS_OK;
}
