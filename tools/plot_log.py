#!/usr/bin/env python3
"""Draws the two figures that tell a KTO run: training and validation loss, and reward margins.

    tools/plot_log.py runs/first --out first.png
    tools/plot_log.py runs/a runs/b --label "lr 5e-4" --label "lr 1e-4" --smooth 0.9 --out sweep.svg
    tools/plot_log.py runs/first --metric kl --metric rewards_accuracies --out more.pdf

A run is its folder or its metrics.h5; it may still be going. Training is drawn as a mean over neighbouring steps with the
steps themselves behind it (--smooth: the weight of the next step against this one, 0 to below 1; 0 draws the steps alone),
evaluations as points. The ending of --out decides the format. Needs h5py and matplotlib.
"""

import argparse
import os
import sys

TITLES = {
    "loss": "KTO loss",
    "rewards_margins": "Reward margin",
    "rewards_chosen": "Reward of desirable answers",
    "rewards_rejected": "Reward of undesirable answers",
    "rewards_accuracies": "Reward accuracy",
    "kl": "Reference point $z_0$ (nat)",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "entropy": "Entropy (nat)",
    "tokens_per_second": "Tokens a second",
}
# Okabe and Ito's colours, told apart by colour-blind eyes too (https://jfly.uni-koeln.de/color/).
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def stop(text, code=2):
    print(f"plot_log: {text}", file=sys.stderr)
    sys.exit(code)


try:
    import h5py
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
except ImportError as error:
    stop(f"{error.name} is missing; install it: python3 -m pip install h5py matplotlib", 1)


def read(run, metrics):
    """{group: {column: values}}, of rows that are whole."""
    path = os.path.join(run, "metrics.h5") if os.path.isdir(run) else run
    try:
        try:
            file = h5py.File(path, "r", swmr=True)
        except (OSError, ValueError):
            file = h5py.File(path, "r")
        with file:
            for metric in metrics:
                if metric not in file["train"]:
                    stop(f"there is no metric {metric}; there are {', '.join(file['train'])}")
            groups = {}
            for group in ("train", "eval"):
                columns = {name: file[group][name][:] for name in ["step", *metrics]}
                rows = min(len(values) for values in columns.values())
                groups[group] = {name: values[:rows] for name, values in columns.items()}
    except (OSError, KeyError) as error:
        stop(f"{path}: cannot be read as a run's log: {error}", 3)
    if len(groups["train"]["step"]) == 0:
        stop(f"{path}: has no step yet", 3)
    return groups


def smoothed(values, weight):
    """Mean with weights weight^|distance in steps|: two-sided, as a mean of the past alone would draw everything late.
    What is no number is passed over."""
    good = np.isfinite(values)
    sums, totals = np.zeros(len(values)), np.zeros(len(values))
    for order in (slice(None), slice(None, None, -1)):
        mean, total = 0.0, 0.0
        for i in np.arange(len(values))[order]:
            sums[i] += weight * mean
            totals[i] += weight * total
            mean = weight * mean + (values[i] if good[i] else 0)
            total = weight * total + good[i]
    sums += np.where(good, values, 0)
    totals += good
    return np.divide(sums, totals, out=np.full(len(values), np.nan), where=totals > 0)


def draw(axes, metric, runs, labels, smooth):
    several = len(runs) > 1
    for i, (groups, label) in enumerate(zip(runs, labels)):
        train, evaluation = groups["train"], groups["eval"]
        colour = COLOURS[i % len(COLOURS)]
        # Of one run training and validation have a colour each; several are told apart by colour.
        dark = colour if several else COLOURS[1]
        if smooth > 0:
            axes.plot(train["step"], train[metric], color=colour, alpha=0.18 if several else 0.28, linewidth=0.8)
        axes.plot(train["step"], smoothed(train[metric], smooth), color=colour, linewidth=1.6,
                  alpha=0.75 if several else 1, label=f"{label}, training" if several else "training")
        if len(evaluation["step"]):
            axes.plot(evaluation["step"], evaluation[metric], color=dark, linewidth=1.6, marker="o", markersize=4.5,
                      markeredgecolor="white", markeredgewidth=0.7, linestyle=(0, (4, 1.5)) if several else "-",
                      label=f"{label}, validation" if several else "validation")
    shown = np.concatenate([g["train"][metric] if smooth == 0 else smoothed(g["train"][metric], smooth) for g in runs]
                           + [g["eval"][metric] for g in runs])
    shown = shown[np.isfinite(shown)]
    if len(shown) and metric != "learning_rate":  # what is smoothed away may leave the frame
        low, high = shown.min(), shown.max()
        room = 0.12 * (high - low) or 0.5
        axes.set_ylim(low - room, high + room)
    axes.set_xlabel("Optimizer step")
    axes.set_ylabel(TITLES.get(metric, metric))
    axes.set_xlim(left=0)
    axes.grid(color="#000000", alpha=0.10, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its metrics.h5")
    parser.add_argument("--out", required=True, help="the picture: .png, .svg or .pdf")
    parser.add_argument("--metric", action="append", help="a figure of this metric instead of the two; may be repeated")
    parser.add_argument("--label", action="append", help="a run's name in the legend, in the order of the runs")
    parser.add_argument("--smooth", type=float, default=0.8, help="weight of each next step in the mean (0.8)")
    parser.add_argument("--width", type=float, default=4.4, help="inches of one figure (4.4)")
    parser.add_argument("--dpi", type=int, default=150)
    options = parser.parse_args()
    if not 0 <= options.smooth < 1:
        stop("--smooth is at least 0 and below 1")
    labels = options.label or [os.path.basename(os.path.normpath(run)) for run in options.runs]
    if len(labels) != len(options.runs):
        stop(f"{len(options.runs)} runs have {len(labels)} labels; give one for each")
    metrics = options.metric or ["loss", "rewards_margins"]
    runs = [read(run, metrics) for run in options.runs]
    plt.rcParams.update({"font.size": 9, "axes.labelsize": 10, "legend.fontsize": 8.5, "svg.fonttype": "path",
                         "svg.hashsalt": "kto", "font.family": "DejaVu Sans", "axes.linewidth": 0.8})
    figure, axes = plt.subplots(1, len(metrics), figsize=(options.width * len(metrics), options.width * 0.68),
                                squeeze=False, layout="constrained")
    for one, metric in zip(axes[0], metrics):
        draw(one, metric, runs, labels, options.smooth)
    # Across from where the curves end; below all figures where there are many entries.
    if len(runs) > 2:
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    else:
        for one in axes[0]:
            low, high = one.get_ylim()
            rises = one.lines[-1].get_ydata()[-1] > (low + high) / 2
            one.legend(frameon=False, loc="lower right" if rises else "upper right")
    try:
        figure.savefig(options.out, dpi=options.dpi)
    except (OSError, ValueError) as error:
        stop(f"{options.out}: {error}")


if __name__ == "__main__":
    main()
