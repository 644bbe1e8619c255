#!/usr/bin/env python3
"""PyTorch through the TorchScript exporter (dynamo=False), for what torch.export does not take: a GRU over token sequences.

usage: torch_script.py OUT        needs torch, onnx

training=TRAIN keeps Dropout and BatchNorm; do_constant_folding=False keeps weights as they are, under their PyTorch names (folded,
transposed ones are called onnx::MatMul_12); dynamic_axes gives the batch a symbol.
"""
import os
import warnings

import torch
import torch.nn as nn

from common import out_dir, sentences, write_task


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(32, 24), nn.LayerNorm(24)
        self.gru, self.head = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 32)

    def forward(self, tokens):
        return self.head(self.norm(self.gru(self.embedding(tokens))[0]))


def main():
    out = out_dir()
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    x, y = sentences()
    torch.onnx.export(Net().train(), (torch.from_numpy(x[:2]),), os.path.join(out, "model.onnx"), dynamo=False, opset_version=17,
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False, input_names=["tokens"], output_names=["logits"],
                      dynamic_axes={"tokens": {0: "batch"}, "logits": {0: "batch"}})
    write_task(out, {"tokens": x}, y, "{kind: cross_entropy, logits: logits, labels: labels}")


if __name__ == "__main__":
    main()
