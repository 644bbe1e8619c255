#!/usr/bin/env python3
"""Makes model.onnx and batch.npz: two opset-23 Attention nodes behind one projection each: grouped heads, causal, softcap; and a
boolean mask. batch.npz also holds the outputs that onnx's reference implementation gives, as want_a and want_b."""
import numpy as np
import onnx
from onnx import helper as h, numpy_helper as nh
from onnx.reference import ReferenceEvaluator

g = np.random.default_rng(0)
w = {n: nh.from_array((g.standard_normal(s) * 0.3).astype(np.float32), n) for n, s in
     {"wq": (8, 16), "wk": (8, 8), "wv": (8, 8)}.items()}
nodes = [h.make_node("MatMul", ["x", n], [n[1]]) for n in w]
nodes += [h.make_node("Attention", ["q", "k", "v"], ["a"], q_num_heads=4, kv_num_heads=2, is_causal=1, softcap=2.0, scale=0.4),
          h.make_node("Attention", ["q", "k", "v", "mask"], ["b"], q_num_heads=4, kv_num_heads=2)]
f, d = onnx.TensorProto.FLOAT, ["batch", 6]
graph = h.make_graph(nodes, "attention", [h.make_tensor_value_info("x", f, d + [8]), h.make_tensor_value_info("mask", onnx.TensorProto.BOOL, [6, 6])],
                     [h.make_tensor_value_info(n, f, d + [16]) for n in "ab"], list(w.values()))
m = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=10)
onnx.checker.check_model(m)
onnx.save(m, "model.onnx")
x = g.standard_normal((3, 6, 8)).astype(np.float32)
mask = np.ones((6, 6), bool)
mask[:, 4] = False
a, b = ReferenceEvaluator(m).run(None, {"x": x, "mask": mask})
np.savez("batch.npz", x=x, mask=mask, ya=np.zeros_like(a), yb=np.zeros_like(b), want_a=a, want_b=b)
