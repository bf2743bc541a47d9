// `kto reference`: the reference log-probabilities ahead of training.
#include "src/commands/commands.h"

#include "comm/stop.h"
#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/setup/run.h"

#include <stdio.h>

static Status fill(Run *run, const Dataset *dataset, Reference *reference, const char *name) {
    StepTimes times = {0};
    MetricsRow unused;
    double last_save = clock_seconds();
    for (int32_t batch = 0, done = 0; batch < dataset->batch_count; batch++) {
        if (reference_has(reference, dataset, batch)) continue;
        unsigned said = 0;
        if (++done % BATCHES_PER_AGREEMENT == 0) TRY(stop_agree(run->comm, 0, &said));
        if (said & SAY_STOP) {
            TRY(comm_agree(run->comm, reference_save(reference, run->comm)));
            log_info("%-8s on request before %s batch %d of %d; the same command goes on from there", "stopped", name,
                     batch + 1, dataset->batch_count);
            return STATUS_STOPPED;
        }
        TRY(step_run(&run->step, dataset, batch, STEP_REFERENCE, 0, reference, &unused, &times));
        char line[128];
        snprintf(line, sizeof line, "reference of %s: batch %d of %d", name, batch + 1, dataset->batch_count);
        log_progress(line);
        if (clock_seconds() - last_save < 60) continue; // a killed run keeps what it had
        TRY(reference_save(reference, run->comm));
        last_save = clock_seconds();
    }
    log_info("%s: %d %s in %s", name, dataset->count, dataset->pairs ? "pairs" : "rows", reference->path);
    return reference_save(reference, run->comm);
}

static Status run_reference(Comm *comm, int argc, char **argv) {
    Run run = {.comm = comm};
    TRY(comm_agree(comm, command_parse(&command_reference, &argc, argv, NULL)));
    TRY(run_begin(&run, argc, argv));
    const char *folder =
        run.config.data.reference_cache[0] != '\0' ? run.config.data.reference_cache : run.config.train.output_dir;
    Status status = comm_agree(comm, comm->rank == 0 ? folder_make(folder) : STATUS_OK);
    if (status == STATUS_OK) status = run_fix_today(&run); // as training will: rows of another day have another cache
    if (status == STATUS_OK) status = run_open(&run, RUN_ROWS | RUN_MODEL | RUN_STEP, 0);
    if (status == STATUS_OK) status = run_open_references(&run, folder);
    if (status == STATUS_OK) status = fill(&run, &run.train, &run.train_reference, "train");
    if (status == STATUS_OK && run.eval.count > 0) status = fill(&run, &run.eval, &run.eval_reference, "eval");
    run_close(&run);
    return comm_agree(comm, status);
}

const Command command_reference = {
    .name = "reference",
    .operands = "CONFIG [key=value ...]",
    .operands_min = 1,
    .operands_max = -1,
    .takes_keys = true,
    .stops_on_request = true,
    .summary = "compute the reference log-probabilities ahead of training",
    .text = "Fills the cache that training reads (data.reference_cache). Stopped or killed, it goes on where it was.",
    .examples = "mpirun -n 2 kto reference run.cfg",
    .run = run_reference,
};
