#!/usr/bin/env python3
"""PyTorch through torch.onnx.export(dynamo=True): a convolutional net with BatchNorm and Dropout.

usage: torch_dynamo.py OUT [--optimised]        needs torch, onnx, onnxscript

Without --optimised the file is what training wants: optimize=False, train mode, a symbolic batch. With it, what an export for
inference does: BatchNorm is folded into the convolutions, under their own names, so that the file shows no trace of it but the number
of parameters (1828 for 1876), and Dropout is gone.
"""
import os
import sys

import torch
import torch.nn as nn

from common import out_dir, spots, write_task


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16 * 9, 4)

    def forward(self, image):
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(image))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        return self.head(self.drop(torch.flatten(x, 1)))


def main():
    out, optimised = out_dir(), "--optimised" in sys.argv
    torch.manual_seed(0)
    x, y = spots()
    model = Net()
    model.train(not optimised)                  # train mode keeps Dropout and BatchNorm
    torch.onnx.export(model, (torch.from_numpy(x[:2]),), os.path.join(out, "model.onnx"), dynamo=True, optimize=optimised,
                      external_data=False, verbose=False, input_names=["image"], output_names=["logits"],
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    write_task(out, {"image": x}, y, "{kind: cross_entropy, logits: logits, labels: labels}")


if __name__ == "__main__":
    main()
