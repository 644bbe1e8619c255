#!/usr/bin/env python3
"""Writes a Llama-shaped ONNX file whose weights are named and sized but absent (external data that is not there).

usage: llama.py OUT.onnx [--layers 126] [--width 16384] [--heads 128] [--kv-heads 8] [--hidden 53248] [--vocab 128256]
                         [--batch 1] [--seq 8192]

The graph is what an exporter without Llama's own ops writes (opset 17): RMS norms, rotary embedding, grouped attention under a causal
mask and SiLU all spelled out, about 60 nodes a layer. Defaults: Llama 3 405B. For `zgraph plan`, which reads no weights.
Needs numpy and onnx.
"""
import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("out")
for name, value in dict(layers=126, width=16384, heads=128, kv_heads=8, hidden=53248, vocab=128256, batch=1, seq=8192).items():
    a.add_argument("--" + name.replace("_", "-"), type=int, default=value)
a = a.parse_args()
nodes, weights, at = [], [], 0
size = a.width // a.heads


def op(kind, *inputs, n=1, **attributes):
    outputs = ["%s_%d%s" % (kind.lower(), len(nodes), "_%d" % k if k else "") for k in range(n)]
    nodes.append(helper.make_node(kind, list(inputs), outputs, name="node_" + outputs[0], **attributes))
    return outputs[0] if n == 1 else outputs


def const(name, value, dtype):
    weights.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def weight(name, *shape):
    global at
    t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    n = 4 * int(np.prod(shape, dtype=np.int64))
    for key, value in ("location", "weights.bin"), ("offset", str(at)), ("length", str(n)):
        t.external_data.add(key=key, value=value)
    at += n
    weights.append(t)
    return name


two, eps, half = const("two", 2, np.float32), const("eps", 1e-5, np.float32), const("half", [size // 2], np.int64)
zero, end, last, one_axis = const("zero", [0], np.int64), const("end", [1 << 40], np.int64), const("last", [3], np.int64), const("one", [2], np.int64)
scale = const("scale", size ** -0.5, np.float32)


def rms_norm(x, name):
    mean = op("ReduceMean", op("Pow", x, two), axes=[-1], keepdims=1)
    return op("Mul", weight(name, a.width), op("Mul", x, op("Reciprocal", op("Sqrt", op("Add", mean, eps)))))


def heads(x, w, n):
    shape = const("heads_%d" % len(weights), [a.batch, a.seq, n, size], np.int64)
    return op("Transpose", op("Reshape", op("MatMul", x, weight(w, a.width, n * size)), shape), perm=[0, 2, 1, 3])


def rotate(x, cos, sin):
    low, high = op("Slice", x, zero, half, last), op("Slice", x, half, end, last)
    return op("Add", op("Mul", x, cos), op("Mul", op("Concat", op("Neg", high), low, axis=-1), sin))


def repeat(x):
    full = [a.batch, a.kv_heads, a.heads // a.kv_heads, a.seq, size]
    y = op("Expand", op("Unsqueeze", x, one_axis), const("full_%d" % len(weights), full, np.int64))
    return op("Reshape", y, const("rows_%d" % len(weights), [a.batch, a.heads, a.seq, size], np.int64))


def attention(x, p, cos, sin, mask):
    q, k = rotate(heads(x, p + "q_proj.weight", a.heads), cos, sin), rotate(heads(x, p + "k_proj.weight", a.kv_heads), cos, sin)
    v = heads(x, p + "v_proj.weight", a.kv_heads)
    scores = op("Mul", op("MatMul", q, op("Transpose", repeat(k), perm=[0, 1, 3, 2])), scale)
    y = op("Transpose", op("MatMul", op("Softmax", op("Add", scores, mask), axis=-1), repeat(v)), perm=[0, 2, 1, 3])
    y = op("Reshape", y, const("joined_%d" % len(weights), [a.batch, a.seq, a.width], np.int64))
    return op("MatMul", y, weight(p + "o_proj.weight", a.width, a.width))


def tables():
    angle = op("Mul", op("Unsqueeze", op("Cast", op("Range", const("from", 0, np.int64), const("to", a.seq, np.int64), const("by", 1, np.int64)),
                                         to=TensorProto.FLOAT), const("axis", [1], np.int64)),
               const("inv_freq", [500000.0 ** (-2 * i / size) for i in range(size // 2)], np.float32))
    both = op("Concat", angle, angle, axis=-1)
    return op("Cos", both), op("Sin", both)


def causal():
    ones = op("ConstantOfShape", const("square", [a.seq, a.seq], np.int64), value=numpy_helper.from_array(np.array([-3e38], np.float32)))
    return op("Trilu", ones, const("above", 1, np.int64), upper=1)


x = op("Gather", weight("model.embed_tokens.weight", a.vocab, a.width), "input_ids", axis=0)
cos, sin = tables()
mask = causal()
for i in range(a.layers):
    p = "model.layers.%d." % i
    x = op("Add", x, attention(rms_norm(x, p + "input_layernorm.weight"), p + "self_attn.", cos, sin, mask))
    h = rms_norm(x, p + "post_attention_layernorm.weight")
    gate = op("MatMul", h, weight(p + "mlp.gate_proj.weight", a.width, a.hidden))
    up = op("MatMul", h, weight(p + "mlp.up_proj.weight", a.width, a.hidden))
    y = op("Mul", op("Mul", gate, op("Sigmoid", gate)), up)
    x = op("Add", x, op("MatMul", y, weight(p + "mlp.down_proj.weight", a.hidden, a.width)))
nodes.append(helper.make_node("MatMul", [rms_norm(x, "model.norm.weight"), weight("lm_head.weight", a.width, a.vocab)], ["logits"]))
graph = helper.make_graph(nodes, "llama", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [a.batch, a.seq])],
                          [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [a.batch, a.seq, a.vocab])], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
with open(a.out, "wb") as f:
    f.write(model.SerializeToString())
print("%s: %d nodes, %.1f B parameters" % (a.out, len(nodes), at / 4e9))
