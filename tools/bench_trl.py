#!/usr/bin/env python3
"""TRL's side of tools/bench and tools/gpu_check: trains on the rows with TRL 1.16's KTOTrainer, on the CPU or with --cuda
on the GPU, and prints "STEP SECONDS" a step.

bf16 weights, LoRA on q_proj and v_proj, reference log-probs computed ahead, no gradient checkpointing. A step's time runs
from the end of the step before to its own end, so that fetching the batch, the optimizer and the log are in it.
"""

import argparse
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
    def __init__(self):
        self.last = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        print(state.global_step, f"{now - self.last:.6f}", flush=True)
        self.last = now


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--rows", required=True, help="JSONL with prompt, completion, label")
    p.add_argument("--scratch", required=True, help="folder for TRL's files")
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--cuda", action="store_true", help="on the GPU, which must be there")
    a = p.parse_args()
    if a.cuda and not torch.cuda.is_available():
        sys.exit("bench_trl: this Python's torch finds no GPU")
    torch.set_num_threads(a.threads)
    set_seed(42)  # the same adapter in every run, so that TRL finds its reference log-probs of the run before
    config = KTOConfig(
        output_dir=a.scratch, use_cpu=not a.cuda, bf16=True, gradient_checkpointing=False, precompute_ref_log_probs=True,
        per_device_train_batch_size=a.batch, max_length=512, beta=0.1, learning_rate=5e-4, lr_scheduler_type="cosine",
        max_steps=a.steps, optim="adamw_torch", logging_steps=1, report_to="none", save_strategy="no", seed=42,
        dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(a.model),
        train_dataset=load_dataset("json", data_files=a.rows, split="train", cache_dir=os.path.join(a.scratch, "datasets")),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
