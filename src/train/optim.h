// Learning-rate schedules and gradient clipping. The AdamW update itself is an op of the device (kernels/backend.h).
#pragma once
#include "io/config.h"
#include <stdint.h>

// The rate of update number `step` (1-based): transformers' get_{cosine,linear,constant}_schedule_with_warmup.
double optim_learning_rate(Scheduler scheduler, double rate, int64_t step, int64_t warmup_steps, int64_t total_steps);

// What the gradient is multiplied with: torch.nn.utils.clip_grad_norm_'s min(1, max_norm / (norm + 1e-6)); 1 for
// max_norm 0.
double optim_clip_scale(double norm, double max_norm);
