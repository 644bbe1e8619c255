#!/usr/bin/env python3
"""Hugging Face: a causal language model, small and fresh, or a pretrained one.

usage: hugging_face.py OUT [llama|gpt2|qwen2|mixtral|PATH]        needs torch, transformers, onnx, onnxscript

PATH is a folder or a name that from_pretrained takes. The wrapper gives tensors alone (a model's own output is a dataclass) and
switches the cache off; mixtures of experts are exported in their batched form, for the loop over experts depends on the data.
"""
import os
import sys

import torch
import transformers

from common import out_dir, sentences, write_task

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from logits import Logits

SMALL = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def load(kind):
    t = transformers
    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**SMALL, num_key_value_heads=2))
    if kind == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    if kind == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**SMALL, num_key_value_heads=2))
    if kind == "mixtral":
        return t.MixtralForCausalLM(t.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4))
    return t.AutoModelForCausalLM.from_pretrained(kind)


def main():
    out = out_dir()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    model = load(sys.argv[2] if len(sys.argv) > 2 else "llama")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")
    x, y = sentences()
    torch.onnx.export(Logits(model).train(), (torch.from_numpy(x[:16]),), os.path.join(out, "model.onnx"), dynamo=True, optimize=False,
                      external_data=False, verbose=False, input_names=["input_ids"], output_names=["logits"])
    write_task(out, {"input_ids": x}, y, "{kind: cross_entropy, logits: logits, labels: labels}")


if __name__ == "__main__":
    main()
