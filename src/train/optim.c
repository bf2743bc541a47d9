// Learning-rate schedules and gradient clipping.
#include "src/train/optim.h"

#include <math.h>

double optim_learning_rate(Scheduler scheduler, double rate, int64_t step, int64_t warmup_steps, int64_t total_steps) {
    int64_t done = step - 1; // transformers evaluates its factor on the updates made so far
    if (done < warmup_steps) return rate * (double)done / (double)warmup_steps;
    if (scheduler == SCHEDULER_CONSTANT) return rate;
    int64_t span = total_steps - warmup_steps > 1 ? total_steps - warmup_steps : 1;
    double progress = (double)(done - warmup_steps) / (double)span;
    double factor = scheduler == SCHEDULER_COSINE ? 0.5 * (1 + cos(M_PI * progress)) : 1 - progress;
    return factor > 0 ? rate * factor : 0;
}

double optim_clip_scale(double norm, double max_norm) {
    if (max_norm == 0) return 1;
    double scale = max_norm / (norm + 1e-6);
    return scale < 1 ? scale : 1;
}
