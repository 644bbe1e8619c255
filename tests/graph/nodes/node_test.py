#!/usr/bin/env python3
"""ONNX's own node tests (shipped in the onnx package) against import and host evaluation.

    node_test.py RUN_NODES [op type ...]

Each case runs with its operands as inputs, and again with more and more of them as constants (shapes and axes must be
known at import). Every variant that runs must give the expected results, and one variant of each case must run, except for
the ops and cases listed below, which zgraph refuses or where it follows torch.
"""
import os
import subprocess
import sys
import tempfile
import warnings

import numpy as np

warnings.filterwarnings("ignore")
import onnx
from onnx import TensorProto as T
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

# Outside of what zgraph does: quantised and integer inference, strings, sequences, tree ensembles, results whose size
# depends on the data, training ops of ONNX's own, signal processing, and what is newer than the exporters.
REFUSED_OPS = set("""
    DequantizeLinear QuantizeLinear DynamicQuantizeLinear ConvInteger MatMulInteger QLinearConv QLinearMatMul
    StringSplit StringNormalizer StringConcat RegexFullMatch TfIdfVectorizer LabelEncoder TreeEnsemble ImageDecoder
    SequenceMap SequenceInsert SplitToSequence OptionalHasElement NonMaxSuppression Unique
    Momentum Adam Adagrad DFT STFT MelWeightMatrix DeformConv Det BitCast
    LinearAttention FlexAttention TensorScatter
""".split())
REFUSED_CASES = {
    "test_equal_string", "test_equal_string_broadcast",                 # strings
    "test_if_seq", "test_if_opt", "test_loop13_seq", "test_loop16_seq_none",   # results that are sequences
    "test_not_2d", "test_not_3d", "test_not_4d", "test_scan_sum",        # opsets before 7, Scan before 9
    "test_roialign_mode_max",
}
OTHER_CASES = {
    # random numbers that no two implementations share
    "test_bernoulli", "test_bernoulli_double", "test_bernoulli_seed", "test_training_dropout_default",
    "test_training_dropout_default_mask", "test_training_dropout", "test_training_dropout_mask",
    # the reference takes the fractional length scale * length, zgraph (as torch and ORT) the whole one
    "test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners",
}


def proto(v):
    return v if isinstance(v, T) else numpy_helper.from_array(np.asarray(v))


def array(v):
    a = numpy_helper.to_array(v) if isinstance(v, T) else np.asarray(v)
    return a.astype(np.float32) if a.dtype.name == "bfloat16" else a


def collect(only):
    for tc in collect_testcases(None):
        m = tc.model
        if m is None or len(m.graph.node) != 1 or (only and m.graph.node[0].op_type not in only):
            continue
        try:
            ins, outs = tc.data_sets[0]
            ins = [(i.name, proto(v)) for i, v in zip(m.graph.input, ins)]
            yield tc.name, m, ins, [array(v) for v in outs]
        except Exception:   # sequences, optionals, strings
            yield tc.name, m, None, None


def variant(m, ins, fixed, path):
    """The model with the operands `fixed` as Constant nodes; writes model and inputs."""
    v = onnx.ModelProto()
    v.CopyFrom(m)
    nodes = list(m.graph.node)
    del v.graph.input[:], v.graph.node[:]
    data = {}
    for (name, t), info in zip(ins, m.graph.input):
        if name in fixed:
            v.graph.node.append(onnx.helper.make_node("Constant", [], [name], value=t))
        else:
            v.graph.input.append(info)
            data[name] = array(t)
    v.graph.node.extend(nodes)
    onnx.save(v, path + ".onnx")
    np.savez(path + ".in.npz", **data)


def differ(m, outs, path):
    got = np.load(path)
    for o, want in zip(m.graph.output, outs):
        if o.name not in got.files:
            return "no output " + o.name
        g = got[o.name]
        if g.shape != want.shape:
            return f"{o.name}: shape {g.shape}, want {want.shape}"
        if want.dtype.kind == "f":
            tol = 2e-2 if want.dtype.itemsize == 2 or o.type.tensor_type.elem_type == T.BFLOAT16 else 1e-4
            if not np.allclose(g.astype(np.float64), want.astype(np.float64), rtol=tol, atol=tol, equal_nan=True):
                return f"{o.name}: differs by {np.nanmax(np.abs(g.astype(np.float64) - want.astype(np.float64)))}"
        elif g.dtype != want.dtype or not (g == want).all():
            return f"{o.name}: {g.dtype} {g.ravel()[:8]}, want {want.dtype} {want.ravel()[:8]}"
    return None


def main():
    runner, only = sys.argv[1], set(sys.argv[2:])
    cases, jobs = [], []
    with tempfile.TemporaryDirectory() as tmp:
        for name, m, ins, outs in collect(only):
            paths = []
            if ins is not None:
                ints = {n for n, t in ins if t.data_type not in (T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16)}
                rest, every = {n for n, _ in ins[1:]}, {n for n, _ in ins}
                for k, fixed in enumerate(map(set, dict.fromkeys(map(frozenset, (set(), ints, rest, every))))):
                    path = os.path.join(tmp, f"{len(cases)}_{k}")
                    try:
                        variant(m, ins, fixed, path)
                    except Exception:   # arrays that npz does not hold
                        continue
                    paths.append(path)
                    jobs.append(path)
            cases.append((name, m, outs, paths))
        text = "".join(f"{p}.onnx {p}.in.npz {p}.out.npz\n" for p in jobs)
        r = subprocess.run([runner], input=text, capture_output=True, text=True, errors="replace")
        lines = dict(zip(jobs, r.stdout.splitlines()))
        if r.returncode or len(lines) != len(jobs):
            print(f"the runner ended with {r.returncode} at {jobs[min(len(lines), len(jobs) - 1)]}: {r.stderr[-500:]}")
            return 1
        passed, refused, wrong = 0, [], []
        for name, m, outs, paths in cases:
            ran = [p for p in paths if lines[p] == "ok"]
            bad = [d for d in (differ(m, outs, p + ".out.npz") for p in ran) if d]
            op = m.graph.node[0].op_type
            if bad and name in OTHER_CASES:
                refused.append(name)
            elif bad:
                wrong.append(f"{name}: {bad[0]}")
            elif ran:
                passed += 1
            else:
                why = [lines[p] for p in paths] or ["operands that are no tensors"]
                expected = op in REFUSED_OPS or name in REFUSED_CASES or any("element type" in w for w in why)
                (refused if expected else wrong).append(f"{name} ({op}): does not run: {why[-1]}")
    for w in wrong:
        print("FAIL", w)
    print(f"{passed} cases pass, {len(refused)} are refused as expected, {len(wrong)} fail")
    return bool(wrong)


sys.exit(main())
