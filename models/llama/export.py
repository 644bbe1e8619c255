#!/usr/bin/env python3
"""Writes model.onnx: Hugging Face's Llama code, 3 layers, d = 96, grouped-query attention, 256 byte tokens, context 128.

usage: export.py [OUT.onnx]        needs torch, transformers, onnx, onnxscript

This one is exported by default, as most files found in the wild are: eval mode, the exporter's optimiser on. It transposes and
renames the linear weights (val_N), and merges what is equal at that moment; `zgraph inspect` shows what is left. The gains of
the norms are drawn at random so that they stay apart.
"""
import os
import sys

import torch
import transformers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from logits import Logits
from tidy import drop_traces

LENGTH = 128


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.onnx")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=256, hidden_size=96, intermediate_size=256, num_hidden_layers=3,
                                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LENGTH,
                                      tie_word_embeddings=False, use_cache=False)
    model = transformers.LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.02)
    ids = torch.randint(0, 256, (2, LENGTH))
    torch.onnx.export(Logits(model).eval(), (ids,), out, dynamo=True, external_data=False, opset_version=20,
                      input_names=["input_ids"], output_names=["logits"],
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    drop_traces(out)


if __name__ == "__main__":
    main()
