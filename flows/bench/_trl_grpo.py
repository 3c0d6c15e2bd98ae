"""The other side of `ringflow bench trl`: TRL's GRPOTrainer on the same shape, prompts, group size and lengths.

Run by the Python of TRL's own environment, which need not know ringflow: `python _trl_grpo.py JOB.json`. JOB holds
prompts (text), tokenizer (a directory), group_size, minibatches, steps, threads, max_new_tokens, lengths [step][sample]
and the shape of the model. Prints one JSON line per step: seconds and completion tokens.

TRL generates with transformers, one static batch per step. Lengths are forced as ringflow's are: a logits processor
lets end-of-sequence through at a sample's length and nowhere before.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer


class ForcedLengths(LogitsProcessor):
    def __init__(self, lengths, prompt_tokens, eos):
        self.lengths, self.prompt_tokens, self.eos = torch.tensor(lengths), prompt_tokens, eos

    def __call__(self, input_ids, scores):
        drawn = input_ids.shape[1] - self.prompt_tokens
        ends = self.lengths[: len(scores)] - 1 <= drawn
        scores[~ends, self.eos] = -float("inf")
        others = torch.arange(scores.shape[1]) != self.eos
        scores[ends[:, None] & others[None]] = -float("inf")
        return scores


class Clock(TrainerCallback):
    """Times whole rollout steps: `updates` optimiser steps each."""

    def __init__(self, updates, tokens):
        self.updates, self.tokens, self.began, self.done = updates, tokens, None, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.updates == 0:
            now = time.perf_counter()
            print(json.dumps({"seconds": now - self.began, "tokens": self.tokens[self.done]}), flush=True)
            self.began, self.done = now, self.done + 1


def main(job):
    torch.set_num_threads(job["threads"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["tokenizer"], padding_side="left")
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**job["model"])).float()
    samples = len(job["lengths"][0])
    calls, generate = [], model.generate

    def forced(*arguments, **keywords):
        ids = keywords["input_ids"] if "input_ids" in keywords else arguments[0]
        lengths = job["lengths"][len(calls)]
        calls.append(1)
        keywords["logits_processor"] = LogitsProcessorList(
            [ForcedLengths(lengths, ids.shape[1], tokenizer.eos_token_id)]
        )
        return generate(*arguments, **keywords)

    model.generate = forced
    config = GRPOConfig(
        output_dir=str(Path(job["tokenizer"]) / "trl"),
        per_device_train_batch_size=samples // job["minibatches"],
        steps_per_generation=job["minibatches"],
        num_generations=job["group_size"],
        max_completion_length=job["max_new_tokens"],
        max_steps=job["minibatches"] * job["steps"],
        learning_rate=1e-6,
        beta=0.0,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10**6,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [text.count("a") / max(len(text), 1) for text in completions],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
        processing_class=tokenizer,
        callbacks=[Clock(job["minibatches"], [sum(lengths) for lengths in job["lengths"]])],
    )
    trainer.train()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
