// Time.
#pragma once
double clock_seconds(void);      // monotonic, for durations
double clock_unix_seconds(void); // seconds since 1970 UTC
