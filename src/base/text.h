// Small questions about words.
#pragma once

// Levenshtein's distance between two words, letters of either case alike; 64 for words longer than that.
int edit_distance(const char *a, const char *b);
