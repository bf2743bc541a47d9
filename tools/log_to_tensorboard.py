#!/usr/bin/env python3
"""Copies runs' metrics.h5 into event files of TensorBoard, once or while the runs go on.

    tools/log_to_tensorboard.py runs/first runs/second --out tb
    tools/log_to_tensorboard.py runs/first --out tb --follow       # Ctrl-C ends; so does the end of every run
    tensorboard --logdir tb

Tags are TRL's (train/rewards/margins, eval/loss ...), with the step and the time of each row. Each call writes its runs
anew. Needs h5py and tensorboardX (a SummaryWriter without TensorFlow and PyTorch); where PyTorch and tensorboard are
installed their SummaryWriter is taken instead.
"""

import argparse
import os
import shutil
import sys
import time

POLL_SECONDS = 2


def stop(text, code=2):
    print(f"log_to_tensorboard: {text}", file=sys.stderr)
    sys.exit(code)


try:
    import h5py
    import numpy as np
except ImportError as error:
    stop(f"{error.name} is missing; install it: python3 -m pip install h5py tensorboardX", 1)
try:
    from tensorboardX import SummaryWriter
except ImportError:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        stop("tensorboardX is missing; install it: python3 -m pip install tensorboardX", 1)


class Run:
    """One run, and how many rows of each group are copied."""

    def __init__(self, folder, out):
        self.folder = folder
        self.path = os.path.join(folder, "metrics.h5") if os.path.isdir(folder) else folder
        if not os.path.exists(folder):
            stop(f"{folder}: no such run")
        name = os.path.basename(os.path.normpath(os.path.dirname(self.path) or "."))
        self.out = os.path.join(out, name)
        self.seen = {"train": 0, "eval": 0}
        self.writer = None

    def start(self):
        """An empty folder for the events: a run that went on from a checkpoint has other rows from there on."""
        if self.writer:
            self.writer.close()
        if os.path.isdir(self.out):
            if any(not file.startswith("events.out.tfevents") for file in os.listdir(self.out)):
                stop(f"{self.out}: holds other files than events; choose another --out")
            shutil.rmtree(self.out)
        self.writer = SummaryWriter(self.out)
        self.seen = {"train": 0, "eval": 0}

    def open(self):
        try:
            return h5py.File(self.path, "r", swmr=True)
        except (OSError, ValueError):
            return h5py.File(self.path, "r")

    def copy(self):
        with self.open() as file:
            rows = {g: min(len(values) for values in file[g].values()) for g in self.seen}
            if self.writer is None or any(rows[g] < self.seen[g] for g in rows):
                self.start()
            for group in self.seen:
                self.copy_rows(group, file[group], self.seen[group], rows[group])
        self.writer.flush()

    def copy_rows(self, group, columns, first, end):
        values = {name: column[first:end] for name, column in columns.items()}
        for name, column in values.items():
            if name in ("step", "time"):
                continue
            tag = f"{group}/{columns[name].attrs.get('trl_name') or name}"
            for step, at, value in zip(values["step"], values["time"], column):
                if step >= 0 and np.isfinite(value):
                    self.writer.add_scalar(tag, float(value), int(step), walltime=float(at))
        self.seen[group] = end

    def finished(self):
        return os.path.exists(os.path.join(os.path.dirname(self.path), "adapter", "adapter_config.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its metrics.h5")
    parser.add_argument("--out", required=True, help="TensorBoard's --logdir; each run gets a folder in it")
    parser.add_argument("--follow", action="store_true", help="go on while rows come")
    options = parser.parse_args()
    runs = [Run(folder, options.out) for folder in options.runs]
    if len({run.out for run in runs}) < len(runs):
        stop("two runs have the same name; copy them one by one, with another --out each")
    failures = dict.fromkeys(runs, 0)
    try:
        while True:
            finished = [run.finished() for run in runs]  # asked first: then the rows that follow are the last
            for run in runs:
                try:
                    run.copy()
                    failures[run] = 0
                except (OSError, KeyError) as error:  # not there yet, or written to in this instant
                    failures[run] += 1
                    if not options.follow or (os.path.exists(run.path) and failures[run] > 10):
                        stop(f"{run.path}: cannot be read as a run's log: {error}", 3)
            if not options.follow or all(finished):
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    for run in runs:
        if run.writer:
            run.writer.close()
            print(f"{run.path}: {run.seen['train']} steps and {run.seen['eval']} evaluations are in {run.out}")


if __name__ == "__main__":
    main()
