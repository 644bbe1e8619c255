"""The node tests of the onnx package through import and evaluation: node_test.py NODE_RUN [PATTERN].

Integer and bool inputs are made initializers, since a training graph has its sizes fixed; so are the float arguments
of Resize, Pad, OneHot and Range.
Fails on a wrong result, a crash, or a refusal that REFUSED does not list. Exit status 77 (skipped) without the package."""
import os
import re
import subprocess
import sys
import tempfile
import warnings

try:
    import numpy as np
    import onnx
    from onnx import numpy_helper as nh
    from onnx.backend.test.case.node import collect_testcases
except ImportError:
    sys.exit(77)

# What zgraph does not do, by reason.
REFUSED = [
    ("result size or a size depends on data", r"nonmaxsuppression|test_unique_"),
    ("quantised, 8-bit and smaller, strings", r"quantize|qlinear|matmulinteger|convinteger|float8|int4|int2|float4|e8m0|string|strnorm|label_encoder"),
    ("optimizers are zgraph's own", r"adam|momentum|adagrad"),
    ("no gradient and no use in training", r"tfidf|tree_ensemble|image_decoder|bitcast|melweight|_det_|_det$|stft|dft"),
    ("preview ops", r"flexattention|flex_attention|linear_attention|linearattention|tensorscatter|tensor_scatter|deform_conv"),
    ("a model output that is a sequence", r"it is a sequence, not a tensor"),
    ("versions before opset 7, Scan 8", r"^test_not_\dd|^test_scan_sum"),
    ("modes", r"roialign_mode_max"),
]
# Random numbers are not the reference's; where a length is fractional the reference keeps the fraction, torch and ORT do not.
UNCOMPARABLE = r"bernoulli|random|training_dropout|resize_downsample_scales_(cubic|linear)_align_corners"


ARGUMENTS = ("scales", "roi", "sizes", "value", "values", "depth", "start", "limit", "delta")


def arrays(values, infos, prefix, out):
    for info, a in zip(infos, values):
        if not (isinstance(a, np.ndarray) or np.isscalar(a)):
            return False
        a = np.asarray(a)
        a = a.astype(np.float32) if a.dtype.name == "bfloat16" else a
        if a.dtype.kind not in "fiub":
            return False
        out[prefix + info.name] = a
    return True


def fix_sizes(m, data):
    for info in list(m.graph.input):
        key, t = "in/" + info.name, info.type.tensor_type.elem_type
        if key in data and data[key].dtype.kind in "iub" or info.name in ARGUMENTS and key in data:
            a = nh.from_array(data[key], info.name)
            if t == onnx.TensorProto.BFLOAT16:
                a = onnx.helper.make_tensor(info.name, t, data[key].shape, data[key].flatten())
            if a.data_type == t:
                m.graph.initializer.append(a)
                m.graph.input.remove(info)


def write_cases(folder, pattern):
    paths = []
    for c in collect_testcases(None):
        if not re.search(pattern, c.name) or not c.data_sets or c.model is None or re.search(UNCOMPARABLE, c.name):
            continue
        data, (ins, outs) = {}, c.data_sets[0]
        if not arrays(ins, c.model.graph.input, "in/", data):
            continue
        arrays(outs, c.model.graph.output, "out/", data)
        m = onnx.ModelProto()
        m.CopyFrom(c.model)
        fix_sizes(m, data)
        path = os.path.join(folder, c.name + ".onnx")
        with open(path, "wb") as f:
            f.write(m.SerializeToString())
        np.savez(path[:-5] + ".npz", **data)
        paths.append(path)
    return paths


def main():
    warnings.simplefilter("ignore")
    runner, pattern = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    refused = re.compile("|".join(r for _, r in REFUSED))
    count, bad = {}, []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_cases(folder, pattern)
        out = subprocess.run([runner] + paths, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace").stdout
    for line in out.splitlines():
        name, what = line.split(" ", 2)[:2]
        count[what] = count.get(what, 0) + 1
        if what not in ("PASS", "REFUSED") or what == "REFUSED" and not refused.search(line):
            bad.append(line)
    print("%d models: %s" % (len(paths), ", ".join("%s %d" % kv for kv in sorted(count.items()))))
    print("\n".join(bad))
    return bool(bad) or sum(count.values()) != len(paths)


sys.exit(main())
