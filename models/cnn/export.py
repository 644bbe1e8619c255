#!/usr/bin/env python3
"""Writes model.onnx: a PyTorch CNN with BatchNorm for 8x8 digits, random weights.

usage: export.py [OUT.onnx]        needs torch, onnx, onnxscript

The exporter's optimiser is off: it would fold BatchNorm into the convolutions before it.
"""
import os
import sys

import torch
from torch import nn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from tidy import drop_traces


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.onnx")
    torch.manual_seed(0)
    torch.onnx.export(Cnn().train(), (torch.rand(4, 1, 8, 8),), out, dynamo=True, optimize=False, external_data=False,
                      opset_version=20, input_names=["images"], output_names=["logits"],
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    drop_traces(out)


if __name__ == "__main__":
    main()
