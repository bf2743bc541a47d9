// The bound that counts of random draws must keep to.
#pragma once
#include <math.h>

// Exceeded by chance once in a million: P(chi-square of k degrees >= k + 2 sqrt(k x) + 2x) <= exp(-x) (Laurent and
// Massart 2000, "Adaptive estimation of a quadratic functional by model selection", lemma 1), here with x = 14.
static inline double chi_square_bound(double degrees) {
    return degrees + 2 * sqrt(degrees * 14) + 2 * 14;
}
