#include "src/train/passes.h"

int32_t step_passes_max(const BatchPlan *plan) {
    return 3 * plan->micro_count + 2;
}

static int32_t add(StepPass *passes, int32_t count, PassKind kind, int32_t micro, unsigned roles) {
    passes[count] = (StepPass){kind, micro, roles};
    return count + 1;
}

int32_t step_passes(const BatchPlan *plan, bool train, bool needs_z0, StepPass *passes) {
    const bool waits = train && needs_z0; // backward waits for the exchange
    int32_t n = 0;
    for (int32_t i = 0; i < plan->micro_count && plan->two_pass; i++)
        n = add(passes, n, PASS_FORWARD, i, ROLES_KL_ONLY);
    if (plan->two_pass && waits) n = add(passes, n, PASS_EXCHANGE, -1, 0);
    for (int32_t i = 0; i < plan->micro_count; i++) {
        n = add(passes, n, PASS_FORWARD, i, plan->two_pass ? ROLES_POLICY : ROLES_ALL);
        if (train && (plan->two_pass || !waits)) n = add(passes, n, PASS_BACKWARD, i, 0);
    }
    n = add(passes, n, PASS_EXCHANGE, -1, 0);
    if (waits && !plan->two_pass && plan->micro_count > 0) n = add(passes, n, PASS_BACKWARD, 0, 0);
    return n;
}
