"""Writes models/: tests in the layout of ONNX's for differentiable ops that its node tests leave out or feed with integers alone,
and for ops of exporters that are none of ONNX's.

usage: make_models.py    (needs numpy, onnx and onnxruntime; the results are onnxruntime's, numpy's for SwiGLU)
"""
import math
import os

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper as nh

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
rng = np.random.default_rng(5)
TYPES = {np.dtype("float32"): T.FLOAT, np.dtype("float64"): T.DOUBLE, np.dtype("int64"): T.INT64}


def write(name, op, feeds, opset=20, want=None, out_type=T.FLOAT, **attrs):
    ins = [h.make_tensor_value_info(k, TYPES[v.dtype], v.shape) for k, v in feeds.items()]
    g = h.make_graph([h.make_node(op, list(feeds), ["y"], **attrs)], name, ins, [h.make_tensor_value_info("y", out_type, None)])
    m = h.make_model(g, opset_imports=[h.make_opsetid("", opset)], ir_version=10, producer_name="zgraph tests")
    if want is None:
        want = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    folder = os.path.join(HERE, name, "test_data_set_0")
    os.makedirs(folder, exist_ok=True)
    onnx.save(m, os.path.join(HERE, name, "model.onnx"))
    for i, v in enumerate(feeds.values()):
        with open(os.path.join(folder, "input_%d.pb" % i), "wb") as f:
            f.write(nh.from_array(v).SerializeToString())
    with open(os.path.join(folder, "output_0.pb"), "wb") as f:
        f.write(nh.from_array(want).SerializeToString())


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


write("test_cast_float_to_double", "Cast", {"x": f32(3, 4)}, out_type=T.DOUBLE, to=T.DOUBLE)
write("test_castlike_float_to_double", "CastLike", {"x": f32(3, 4), "like": np.zeros(1)}, out_type=T.DOUBLE,
      want=None)
write("test_globallppool_2d", "GlobalLpPool", {"x": f32(2, 3, 4, 5)}, p=2)
write("test_globallppool_p3", "GlobalLpPool", {"x": f32(2, 3, 7)}, p=3)
write("test_trilu_float_lower", "Trilu", {"x": f32(2, 4, 5), "k": np.array(-1, np.int64)}, upper=0)
write("test_trilu_float_upper", "Trilu", {"x": f32(4, 3)}, upper=1)
a, b = f32(3, 5), f32(3, 5)
write("test_swiglu_alpha", "SwiGLU", {"a": a, "b": b}, opset=28, alpha=1.5, want=(a / (1 + np.exp(-1.5 * a)) * b).astype(np.float32))
rois = np.array([[0, 0, 0, 7, 5], [1, 2, 1, 6, 4], [1, 5, 3, 5, 3]], np.float32)
write("test_maxroipool", "MaxRoiPool", {"x": f32(2, 3, 6, 8), "rois": rois}, pooled_shape=[2, 3], spatial_scale=1.0)
write("test_maxroipool_scaled", "MaxRoiPool", {"x": f32(2, 2, 5, 5), "rois": rois * np.float32([1, 2, 2, 2, 2])}, pooled_shape=[3, 2],
      spatial_scale=0.4)
x = f32(3, 4)
write("test_erfc", "Erfc", {"x": x}, want=np.vectorize(math.erfc)(x).astype(np.float32))   # what tf2onnx writes
