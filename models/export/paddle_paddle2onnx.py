#!/usr/bin/env python3
"""PaddlePaddle through paddle2onnx: a dense net.

usage: paddle_paddle2onnx.py OUT        needs paddlepaddle, paddle2onnx

paddle.onnx.export writes an inference program: layers with a train mode (BatchNorm, Dropout) come out as in eval mode. The None of the
InputSpec is the symbolic batch.
"""
import os

import onnx
import paddle

from common import blobs, out_dir, write_task


def main():
    out = out_dir()
    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Linear(8, 32), paddle.nn.GELU(), paddle.nn.LayerNorm(32), paddle.nn.Linear(32, 4))
    net.eval()
    paddle.onnx.export(net, os.path.join(out, "model"), input_spec=[paddle.static.InputSpec([None, 8], "float32", "x")], opset_version=17)
    m = onnx.load(os.path.join(out, "model.onnx"))
    x, y = blobs()
    write_task(out, {m.graph.input[0].name: x}, y, "{kind: cross_entropy, logits: %s, labels: labels}" % m.graph.output[0].name)


if __name__ == "__main__":
    main()
