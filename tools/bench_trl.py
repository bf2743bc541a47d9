#!/usr/bin/env python3
"""TRL's side of tools/bench and tools/gpu_check: trains with TRL 1.16's KTOTrainer on the CPU, or with --cuda on the GPU.

A case is NAME:ROWS.jsonl:BATCH:STEPS:MAX_LENGTH:TARGETS:R, TARGETS being module names with commas or "all". Lines on standard
output begin with the case's name and whether Liger's kernels were on (0 or 1):

    plain 0 step 2 0.098123      seconds of a step, from the end of the step before to its own, so that fetching the batch,
                                 the optimizer and the log are in it
    plain 0 peak_mib 21504       of torch's allocator, with --cuda
    plain 1 failed ImportError: ...

bf16 weights, sdpa attention, reference log-probs computed ahead, no gradient checkpointing.
"""

import argparse
import gc
import os
import sys
import time

if "--cuda" not in sys.argv:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import KTOConfig, KTOTrainer


class Clock(TrainerCallback):
    def __init__(self, label):
        self.label, self.last = label, None

    def now(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = self.now()

    def on_step_end(self, args, state, control, **kwargs):
        now = self.now()
        print(self.label, "step", state.global_step, f"{now - self.last:.6f}", flush=True)
        self.last = now


def train(a, case, liger):
    name, rows, batch, steps, max_length, targets, r = case.split(":")
    label = f"{name} {int(liger)}"
    set_seed(42)  # the same adapter in every run, so that TRL finds its reference log-probs of the run before
    config = KTOConfig(
        output_dir=a.scratch, use_cpu=not a.cuda, bf16=True, gradient_checkpointing=False, precompute_ref_log_probs=True,
        per_device_train_batch_size=int(batch), max_length=int(max_length), beta=0.1, learning_rate=5e-4,
        lr_scheduler_type="cosine", max_steps=int(steps), optim="adamw_torch_fused" if a.cuda else "adamw_torch",
        logging_steps=1, report_to="none", save_strategy="no", seed=42, dataloader_pin_memory=False, disable_tqdm=True,
        use_liger_kernel=liger,
    )  # fmt: skip
    lora = LoraConfig(
        r=int(r), lora_alpha=2 * int(r), target_modules="all-linear" if targets == "all" else targets.split(","),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16, attn_implementation="sdpa"),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(a.model),
        train_dataset=load_dataset("json", data_files=rows, split="train", cache_dir=os.path.join(a.scratch, "datasets")),
        peft_config=lora,
        callbacks=[Clock(label)],
    )
    trainer.train()
    if a.cuda:
        print(label, "peak_mib", torch.cuda.max_memory_allocated() >> 20, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--scratch", required=True, help="folder for TRL's files")
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--cuda", action="store_true", help="on the GPU, which must be there")
    p.add_argument("--liger", action="store_true", help="each case without and with Liger's kernels")
    p.add_argument("case", nargs="+")
    a = p.parse_args()
    if a.cuda and not torch.cuda.is_available():
        sys.exit("bench_trl: this Python's torch finds no GPU")
    torch.set_num_threads(a.threads)
    for case in a.case:
        for liger in (False, True) if a.liger else (False,):
            gc.collect()
            if a.cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                train(a, case, liger)
            except Exception as error:  # one case without memory or without Liger leaves the others
                words = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                print(case.split(":")[0], int(liger), "failed", words, flush=True)


if __name__ == "__main__":
    main()
