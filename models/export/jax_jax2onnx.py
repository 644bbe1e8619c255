#!/usr/bin/env python3
"""JAX and Flax through jax2onnx: a dense net with LayerNorm and gelu.

usage: jax_jax2onnx.py OUT        needs jax, flax, jax2onnx

The parameters of the nnx.Module become initializers with made-up names (const_2): name them in frozen and optimizer.groups as
`zgraph inspect` lists them. "B" is a symbolic batch.
"""
import os

import onnx
from flax import nnx
from jax2onnx import to_onnx

from common import blobs, out_dir, write_task


class Net(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.norm, self.head = nnx.Linear(8, 32, rngs=rngs), nnx.LayerNorm(32, rngs=rngs), nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(nnx.gelu(self.inner(x))))


def main():
    out = out_dir()
    model = to_onnx(Net(nnx.Rngs(0)), inputs=[("B", 8)], model_name="net", opset=21)
    path = os.path.join(out, "model.onnx")
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, path)
    m = onnx.load(path)
    x, y = blobs()
    write_task(out, {m.graph.input[0].name: x}, y, "{kind: cross_entropy, logits: %s, labels: labels}" % m.graph.output[0].name)


if __name__ == "__main__":
    main()
