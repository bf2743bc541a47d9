// Waiting for signals, and the ranks' agreement. What is saved before stopping is the caller's business.
//
// There is no handler: oneDNN's matrix products, before 3.11.2 (uxlfoundation/oneDNN#4845), keep their
// stack pointer in the heap at times, and what the system puts there to call a handler overwrites other data. So every
// thread has these signals blocked but one, which takes them and computes nothing.
#include "comm/stop.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

static atomic_bool requested;
static sigset_t signals;

static void *listen(void *unused) {
    (void)unused;
    for (bool interrupted = false;;) {
        int number = 0;
        if (sigwait(&signals, &number) != 0) continue;
        if (number == SIGINT && interrupted) {
            signal(SIGINT, SIG_DFL);
            pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
            raise(SIGINT);
        }
        interrupted = interrupted || number == SIGINT;
        requested = true;
    }
    return NULL;
}

void stop_install(void) {
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); // threads to come inherit it
    pthread_t thread;
    if (pthread_create(&thread, NULL, listen, NULL) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &signals, NULL); // they end the process, as without us
}

bool stop_requested(void) {
    return requested;
}

Status stop_agree(Comm *comm, unsigned mine, unsigned *all) {
    const unsigned said = mine | (requested ? SAY_STOP : 0);
    int64_t flag[SAY_FLAGS];
    for (int i = 0; i < SAY_FLAGS; i++) flag[i] = said >> i & 1;
    TRY(comm_max(comm, "the vote on stopping and saving", flag, SAY_FLAGS));
    *all = 0;
    for (int i = 0; i < SAY_FLAGS; i++) *all |= (unsigned)flag[i] << i;
    return STATUS_OK;
}
