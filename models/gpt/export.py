#!/usr/bin/env python3
"""Writes model.onnx: Hugging Face's GPT-2 code, 4 layers, d = 128, 256 byte tokens, context 128, random weights.

usage: export.py [OUT.onnx]        needs torch, transformers, onnx, onnxscript

This is the export recipe for training: the module is in train mode (dropout ratios are 0 here), the exporter's optimiser is
off, so every PyTorch parameter stays one initializer under its own name and the head stays tied to the embedding. The batch is
a symbol. The model returns logits; the loss is named in the configuration.
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
    config = transformers.GPT2Config(vocab_size=256, n_positions=LENGTH, n_embd=128, n_layer=4, n_head=4, use_cache=False,
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = Logits(transformers.GPT2LMHeadModel(config)).train()
    ids = torch.randint(0, 256, (2, LENGTH))
    torch.onnx.export(model, (ids,), out, dynamo=True, optimize=False, external_data=False, opset_version=20,
                      input_names=["input_ids"], output_names=["logits"],
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    drop_traces(out)


if __name__ == "__main__":
    main()
