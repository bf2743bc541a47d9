// A library to be preloaded into a run (LD_PRELOAD): a disk that misbehaves, and a process that hangs. KTO_DISK is
//     quota:BYTES[+N]     once so many bytes are written, writing fails as beyond a quota; N times, or for ever
//     readonly:BYTES[+N]  the same as on a disk that the kernel has made read-only, which it does after errors
//     broken:BYTES[+N]    the same with an input/output error
//     stuck:BYTES         the same, but fsync does not return
//     slow:MILLISECONDS   every write and fsync takes so much longer
// SIGUSR2 makes the process hang, where SIGSTOP stops it: its other threads run on and other signals are taken.
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long good = LONG_MAX; // bytes, before it starts
static long faults = LONG_MAX, written;
static useconds_t pause_microseconds;
static int error; // of writes; 0: fsync hangs

static void hang(int number) {
    (void)number;
    for (;;) pause();
}

__attribute__((constructor)) static void start(void) {
    signal(SIGUSR2, hang);
    const char *disk = getenv("KTO_DISK");
    char *figures = disk == NULL ? NULL : strchr(disk, ':');
    if (figures == NULL) return;
    const long first = strtol(figures + 1, &figures, 10);
    if (strncmp(disk, "slow", 4) == 0) {
        pause_microseconds = (useconds_t)first * 1000;
        return;
    }
    good = first;
    if (*figures == '+') faults = atol(figures + 1);
    error = strncmp(disk, "quota", 5) == 0      ? EDQUOT
            : strncmp(disk, "readonly", 8) == 0 ? EROFS
            : strncmp(disk, "broken", 6) == 0   ? EIO
                                                : 0;
}

static int misbehaves(void) {
    if (pause_microseconds > 0) usleep(pause_microseconds);
    return written >= good;
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "pwrite");
    if (misbehaves() && error != 0 && faults > 0) {
        faults--;
        errno = error;
        return -1;
    }
    written += (long)size;
    return real(file, bytes, size, at);
}

int fsync(int file) {
    static int (*real)(int);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    if (misbehaves() && error == 0) hang(0);
    return real(file);
}
