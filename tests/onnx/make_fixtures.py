"""Writes fixtures/NAME.onnx and, where ONNX's own tools can run the model, NAME.npz: inputs as in/NAME, outputs as
out/NAME (onnxruntime; where it refuses a model that zgraph must read, the same model without the defect).
Needs numpy, onnx, onnxruntime."""
import os

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
rng = np.random.default_rng(1)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def vi(name, shape, t=T.FLOAT):
    return h.make_tensor_value_info(name, t, shape)


def init(name, a):
    return nh.from_array(np.asarray(a), name)


def model(nodes, inputs, outputs, inits=(), opset=20, ir=10, functions=(), domains=(), sparse=(), value_info=()):
    g = h.make_graph(nodes, "g", inputs, outputs, list(inits), sparse_initializer=list(sparse), value_info=list(value_info))
    ops = [h.make_opsetid("", opset)] + [h.make_opsetid(d, 1) for d in domains]
    return h.make_model(g, opset_imports=ops, ir_version=ir, functions=list(functions), producer_name="fixtures")


def run(m, feeds):
    s = ort.InferenceSession(m.SerializeToString() if not isinstance(m, str) else m)
    names = [o.name for o in s.get_outputs()]
    return dict(zip(names, s.run(names, feeds)))


def write(name, m, feeds=None, reference=None):
    path = os.path.join(HERE, name + ".onnx")
    if isinstance(m, onnx.ModelProto):
        with open(path, "wb") as f:
            f.write(m.SerializeToString())
    if feeds is not None:
        outs = run(reference if reference is not None else m, feeds)
        arrays = {"in/" + k: v for k, v in feeds.items()}
        arrays.update({"out/" + k: np.asarray(v) for k, v in outs.items()})
        np.savez(os.path.join(HERE, name + ".npz"), **arrays)


def functions():
    scale = h.make_function("my", "Scale", ["x", "shift"], ["y"], [
        h.make_node("Constant", [], ["k"], value_float=0.0),
        h.make_node("LeakyRelu", ["x"], ["r"]),
        h.make_node("Add", ["r", "shift"], ["y"])], [h.make_opsetid("", 20)], ["alpha"])
    a = scale.node[1].attribute.add()
    a.name, a.ref_attr_name, a.type = "alpha", "alpha", onnx.AttributeProto.FLOAT
    outer = h.make_function("my", "Twice", ["x", "w"], ["y", "unused"], [
        h.make_node("Scale", ["x", "w"], ["t"], domain="my", name="first"),
        h.make_node("Scale", ["t", "w"], ["y"], domain="my", name="second"),
        h.make_node("Neg", ["x"], ["unused"])], [h.make_opsetid("", 20), h.make_opsetid("my", 1)], [],
        [h.make_attribute("slope", 0.25)])
    for n in outer.node[:2]:
        a = n.attribute.add()
        a.name, a.ref_attr_name, a.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    m = model([h.make_node("Twice", ["x", "w"], ["a", "u0"], domain="my", name="call0"),
               h.make_node("Twice", ["a", "w"], ["y", "u1"], domain="my", name="call1", slope=0.5)],
              [vi("x", ["n", 4])], [vi("y", ["n", 4])], [init("w", f32(4))], functions=[scale, outer], domains=["my"])
    write("functions", m, {"x": f32(3, 4)})


def if_folded():
    inner_then = h.make_graph([h.make_node("Mul", ["x", "two"], ["inner_t"])], "it", [], [vi("inner_t", None)],
                              [init("two", np.array([2.0], np.float32))])
    inner_else = h.make_graph([h.make_node("Neg", ["x"], ["inner_e"])], "ie", [], [vi("inner_e", None)])
    then = h.make_graph([h.make_node("If", ["c1"], ["t"], then_branch=inner_then, else_branch=inner_else, name="inner"),
                         h.make_node("Add", ["t", "w"], ["then_out"])], "then", [], [vi("then_out", None)])
    other = h.make_graph([h.make_node("NonZero", ["x"], ["else_out"])], "else", [], [vi("else_out", None, T.INT64)])
    m = model([h.make_node("Shape", ["x"], ["s"]), h.make_node("Gather", ["s", "zero"], ["n"], axis=0),
               h.make_node("Greater", ["n", "two_i"], ["c"]), h.make_node("Equal", ["n", "three"], ["c1"]),
               h.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="outer")],
              [vi("x", ["n", 2])], [vi("y", None)],
              [init("zero", np.array(0)), init("two_i", np.array(2)), init("three", np.array(3)), init("w", f32(2))])
    good = onnx.ModelProto()
    good.CopyFrom(m)
    e = good.graph.node[4].attribute[0 if good.graph.node[4].attribute[0].name == "else_branch" else 1].g
    e.node[0].op_type = "Neg"
    e.output[0].type.tensor_type.elem_type = T.FLOAT
    write("if_folded", m, {"x": f32(3, 2)}, good)


def loop():
    body = h.make_graph([h.make_node("Cast", ["i"], ["fi"], to=T.FLOAT), h.make_node("Add", ["acc", "fi"], ["a1"]),
                         h.make_node("Mul", ["a1", "w"], ["acc_out"]), h.make_node("Identity", ["acc_out"], ["row"]),
                         h.make_node("Less", ["i", "last"], ["go"])],
                        "body", [vi("i", [], T.INT64), vi("cond", [], T.BOOL), vi("acc", None)],
                        [vi("go", [], T.BOOL), vi("acc_out", None), vi("row", None)])
    m = model([h.make_node("Loop", ["trips", "", "x"], ["final", "rows"], body=body, name="loop")],
              [vi("x", ["n"])], [vi("final", None), vi("rows", None)],
              [init("trips", np.array(9)), init("last", np.array(2)), init("w", f32(3))])
    write("loop", m, {"x": f32(3)})


def scan():
    body = h.make_graph([h.make_node("Add", ["s", "e"], ["s_out"]), h.make_node("Mul", ["s_out", "e"], ["o"]),
                         h.make_node("Sub", ["s_out", "e"], ["o2"])],
                        "body", [vi("s", [3]), vi("e", [3])], [vi("s_out", [3]), vi("o", [3]), vi("o2", [3])])
    m = model([h.make_node("Scan", ["s0", "x"], ["s", "a", "b"], body=body, num_scan_inputs=1, scan_input_axes=[1],
                           scan_input_directions=[1], scan_output_axes=[1, 0], scan_output_directions=[1, 0])],
              [vi("x", [3, 5])], [vi("s", [3]), vi("a", [3, 5]), vi("b", [5, 3])], [init("s0", f32(3))])
    write("scan", m, {"x": f32(3, 5)})


def sequences():
    nodes = [h.make_node("SplitToSequence", ["x", "two"], ["seq"], axis=1),
             h.make_node("SequenceAt", ["seq", "one"], ["b"]), h.make_node("SequenceAt", ["seq", "minus"], ["c"]),
             h.make_node("SequenceLength", ["seq"], ["n"]), h.make_node("Cast", ["n"], ["nf"], to=T.FLOAT),
             h.make_node("SequenceInsert", ["seq", "b", "zero"], ["longer"]),
             h.make_node("SequenceErase", ["longer", "one"], ["shorter"]),
             h.make_node("ConcatFromSequence", ["shorter"], ["cat"], axis=1),
             h.make_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=0),
             h.make_node("ConcatFromSequence", ["rows"], ["stack"], axis=1, new_axis=1),
             h.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1),
             h.make_node("SequenceAt", ["parts", "one"], ["p1"]),
             h.make_node("Add", ["b", "nf"], ["b1"])]
    m = model(nodes, [vi("x", ["n", 5])], [vi(n, None) for n in ("b1", "c", "cat", "stack", "p1")],
              [init("two", np.array(2)), init("one", np.array(1)), init("zero", np.array(0)), init("minus", np.array(-1)),
               init("sizes", np.array([1, 4]))])
    write("sequences", m, {"x": f32(3, 5)})


def typed():
    kinds = [(T.FLOAT, np.float32), (T.DOUBLE, np.float64), (T.FLOAT16, np.float16), (T.BFLOAT16, None), (T.INT8, np.int8),
             (T.INT16, np.int16), (T.INT32, np.int32), (T.INT64, np.int64), (T.UINT8, np.uint8), (T.UINT16, np.uint16),
             (T.UINT32, np.uint32), (T.UINT64, np.uint64), (T.BOOL, np.bool_)]
    inits, nodes, outs = [], [], []
    for t, dt in kinds:
        name = T.DataType.Name(t).lower()
        signed = t in (T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16, T.INT8, T.INT16, T.INT32, T.INT64)
        vals = [1, 0, 1] if t == T.BOOL else [1, -3 if signed else 200, 7]
        inits.append(h.make_tensor(name, t, [3], vals))
        nodes.append(h.make_node("Cast", [name], [name + "_f"], to=T.FLOAT))
        nodes.append(h.make_node("Mul", ["x", name + "_f"], [name + "_y"]))
        outs.append(vi(name + "_y", [3]))
    write("typed", model(nodes, [vi("x", [3])], outs, inits), {"x": f32(3)})


def sparse():
    values = h.make_tensor("w", T.FLOAT, [3], [1.5, -2.0, 4.0])
    linear = h.make_sparse_tensor(values, h.make_tensor("wi", T.INT64, [3], [0, 4, 11]), [3, 4])
    coords = h.make_sparse_tensor(h.make_tensor("cv", T.FLOAT, [2], [3.0, 5.0]), h.make_tensor("ci", T.INT64, [2, 2], [0, 1, 2, 3]), [3, 4])
    m = model([h.make_node("Constant", [], ["k"], sparse_value=coords), h.make_node("Add", ["w", "k"], ["s"]),
               h.make_node("Mul", ["x", "s"], ["y"])], [vi("x", [3, 4])], [vi("y", [3, 4])], sparse=[linear])
    write("sparse", m, {"x": f32(3, 4)})


def external():
    w, b = f32(8, 16), f32(16)
    m = model([h.make_node("Gemm", ["x", "w", "b"], ["y"])], [vi("x", ["n", 8])], [vi("y", ["n", 16])], [init("w", w), init("b", b)])
    feeds = {"x": f32(2, 8)}
    raw = b"head" * 3 + w.tobytes() + b"gap!" + b.tobytes()
    with open(os.path.join(HERE, "external.bin"), "wb") as f:
        f.write(raw)
    outs = m.SerializeToString()
    for t, off in zip(m.graph.initializer, (12, 16 + w.nbytes)):
        n = len(t.raw_data)
        t.ClearField("raw_data")
        t.data_location = T.EXTERNAL
        for k, v in (("location", "external.bin"), ("offset", off), ("length", n)):
            e = t.external_data.add()
            e.key, e.value = k, str(v)
    write("external", m, feeds, onnx.load_from_string(outs))
    for name, where in (("external_parent", "../typed.onnx"), ("external_absolute", "/etc/passwd"), ("external_absent", "no_such.bin"),
                        ("external_link", "external_link.bin")):
        bad = onnx.ModelProto()
        bad.CopyFrom(m)
        bad.graph.initializer[0].external_data[0].value = where
        write(name, bad)
    short = onnx.ModelProto()
    short.CopyFrom(m)
    short.graph.initializer[1].external_data[1].value = "600"
    write("external_short", short)


def careless():
    """Weights listed as inputs, two imports of one domain, unsorted nodes, wrong shapes, dims without names."""
    w, b = f32(4, 3), f32(3)
    nodes = [h.make_node("Relu", ["p"], ["y"]), h.make_node("MatMul", ["x", "w"], ["m"]), h.make_node("Add", ["m", "b"], ["p"])]
    inits = [init("w", w), init("b", b)]
    ok = model([nodes[1], nodes[2], nodes[0]], [vi("x", ["n", 4])], [vi("y", None)], inits)
    m = model(nodes, [vi("x", [0, 4]), vi("w", [4, 3]), vi("b", [3])], [vi("y", [7, 9])], inits, opset=13, ir=3,
              value_info=[vi("m", [1, 1, 1]), vi("p", [2, 3])])
    m.opset_import.append(h.make_opsetid("ai.onnx", 20))
    write("careless", m, {"x": f32(2, 4)}, ok)
    m = model(nodes[1:] + nodes[:1], [vi("x", ["-1", 4])], [vi("y", ["", 3])], inits)
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "-1"
    write("minus_dim", m, {"x": f32(2, 4)}, ok)


def half():
    w, b = f32(4, 3), f32(3)
    nodes = [h.make_node("Cast", ["x"], ["xh"], to=T.FLOAT16), h.make_node("MatMul", ["xh", "w"], ["m"]),
             h.make_node("Add", ["m", "b"], ["p"]), h.make_node("Cast", ["p"], ["y"], to=T.FLOAT)]
    write("half", model(nodes, [vi("x", ["n", 4])], [vi("y", ["n", 3])], [init("w", w.astype(np.float16)), init("b", b.astype(np.float16))]),
          {"x": f32(2, 4)})


def parameters():
    """One tensor of each sort the rule tells apart. Name: what becomes of it."""
    n = 4
    nodes = [h.make_node("Mul", ["x", "const_rank0"], ["a"]), h.make_node("Add", ["a", "const_one_arith"], ["b"]),
             h.make_node("Transpose", ["train_wt"], ["wt"]), h.make_node("Gemm", ["b", "wt", "train_bias1"], ["c"]),
             h.make_node("Identity", ["running_mean"], ["rm"]),
             h.make_node("BatchNormalization", ["x", "train_gain", "train_shift", "rm", "running_var"], ["d"], name="bn"),
             h.make_node("Constant", [], ["train_const"], value=init("v", f32(20, n))),
             h.make_node("Constant", [], ["frozen_const"], value=init("v", np.ones((20, n), np.float32))),
             h.make_node("ReduceMean", ["frozen_const"], ["m"], keepdims=0), h.make_node("Add", ["c", "m"], ["cm"]),
             h.make_node("Constant", [], ["const_small"], value=init("v", f32(n))),
             h.make_node("MatMul", ["train_const", "train_mm"], ["e"]), h.make_node("ReduceSum", ["e"], ["f"], keepdims=0),
             h.make_node("Add", ["cm", "f"], ["g"]), h.make_node("ReduceSum", ["d"], ["h"], keepdims=0),
             h.make_node("Mul", ["d", "const_small"], ["d2"]),
             h.make_node("Add", ["g", "h"], ["y"]), h.make_node("Add", ["y", "const_int_f"], ["y2"]),
             h.make_node("Cast", ["const_int"], ["const_int_f"], to=T.FLOAT)]
    inits = [init("const_rank0", np.float32(2)), init("const_one_arith", np.array([[0.5]], np.float32)), init("train_wt", f32(1, n)),
             init("train_bias1", f32(1)), init("running_mean", f32(n)), init("running_var", np.abs(f32(n)) + 1),
             init("train_gain", f32(n)), init("train_shift", f32(n)), init("train_mm", f32(n, 2)), init("const_int", np.arange(1))]
    write("parameters", model(nodes, [vi("x", ["n", n])], [vi("y2", None), vi("d2", None)], inits), {"x": f32(3, n)})


def weights():
    """Weights that are no initializers: a Constant node, ConstantOfShape nodes (shapes as initializer and as Constant), a branch."""
    then = h.make_graph([h.make_node("MatMul", ["a", "branch_w"], ["t"], name="in_branch")], "t", [], [vi("t", None)],
                        [init("branch_w", f32(3, 5))])
    other = h.make_graph([h.make_node("Relu", ["a"], ["e"])], "e", [], [vi("e", None)])
    fill = lambda v: h.make_tensor("v", T.FLOAT, [1], [v])
    nodes = [h.make_node("Constant", [], ["const_w"], value=init("v", f32(4, 3))), h.make_node("MatMul", ["x", "const_w"], ["p"], name="first"),
             h.make_node("ConstantOfShape", ["gain_shape"], ["gain"], value=fill(0.5)),
             h.make_node("Constant", [], ["bias_shape"], value=init("v", np.array([3]))), h.make_node("ConstantOfShape", ["bias_shape"], ["bias"]),
             h.make_node("LayerNormalization", ["p", "gain", "bias"], ["q"], name="norm"),
             h.make_node("ConstantOfShape", ["gain_shape"], ["step"], value=fill(2.0)), h.make_node("Mul", ["q", "step"], ["a"]),
             h.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other, name="choose")]
    m = model(nodes, [vi("x", ["n", 4])], [vi("y", None)], [init("gain_shape", np.array([3])), init("yes", np.array(True))])
    write("weights", m, {"x": f32(2, 4)})


def tables():
    """Float tensors that look like weights: frequencies, caches of cosines and sines, a mask, the source of a shape; beside them
    learned ones in like places: position embeddings, a bias of scores."""
    def turned(x, out):
        return [h.make_node("Split", [x], [out + "1", out + "2"], axis=3, num_outputs=2), h.make_node("Neg", [out + "2"], [out + "n"]),
                h.make_node("Concat", [out + "n", out + "1"], [out + "t"], axis=3), h.make_node("Mul", [out + "t", out + "_sin"], [out + "s"]),
                h.make_node("Mul", [x, out + "_cos"], [out + "c"]), h.make_node("Add", [out + "c", out + "s"], [out])]
    nodes = [h.make_node("Gather", ["learned_wpe", "pos"], ["p"]), h.make_node("Add", ["x", "p"], ["xp"]),
             h.make_node("Shape", ["shape_source"], ["shape"]), h.make_node("Reshape", ["xp", "shape"], ["xh"]),
             h.make_node("Transpose", ["xh"], ["heads"], perm=[0, 2, 1, 3]),
             h.make_node("Cast", ["pos"], ["posf"], to=T.FLOAT), h.make_node("Unsqueeze", ["posf", "two"], ["pos3"]),
             h.make_node("Mul", ["pos3", "inv_freq"], ["angle"]), h.make_node("Concat", ["angle", "angle"], ["angles"], axis=2),
             h.make_node("Unsqueeze", ["angles", "one"], ["a4"]), h.make_node("Cos", ["a4"], ["q_cos"]), h.make_node("Sin", ["a4"], ["q_sin"]),
             h.make_node("Gather", ["cos_cache", "pos"], ["cc"]), h.make_node("Unsqueeze", ["cc", "one"], ["k_cos"]),
             h.make_node("Gather", ["sin_cache", "pos"], ["sc"]), h.make_node("Unsqueeze", ["sc", "one"], ["k_sin"]),
             *turned("heads", "q"), *turned("heads", "k"), h.make_node("Transpose", ["k"], ["keys"], perm=[0, 1, 3, 2]),
             h.make_node("MatMul", ["q", "keys"], ["scores"]), h.make_node("Add", ["scores", "learned_bias"], ["biased"]),
             h.make_node("Add", ["biased", "mask"], ["masked"]), h.make_node("Softmax", ["masked"], ["prob"], axis=-1),
             h.make_node("MatMul", ["prob", "heads"], ["y"])]
    angles = np.arange(8)[:, None] * np.array([1.0, 0.1, 1.0, 0.1])
    inits = [init("learned_wpe", f32(8, 8)), init("shape_source", np.zeros((1, 4, 2, 4), np.float32)),
             init("inv_freq", np.array([1.0, 0.1], np.float32)), init("cos_cache", np.cos(angles).astype(np.float32)),
             init("sin_cache", np.sin(angles).astype(np.float32)),
             init("learned_bias", f32(1, 2, 4, 4)), init("mask", np.triu(np.full((1, 1, 4, 4), -1e9, np.float32), 1)),
             init("one", np.array([1])), init("two", np.array([2]))]
    m = model(nodes, [vi("x", [1, 4, 8]), vi("pos", [1, 4], T.INT64)], [vi("y", None)], inits)
    write("tables", m, {"x": f32(1, 4, 8), "pos": np.arange(4)[None] + 2})


def damaged():
    """What default exports do to a model: doctor.c finds each."""
    nodes = [h.make_node("Conv", ["x", "conv.weight", "val_7"], ["c"], name="conv"), h.make_node("Relu", ["c"], ["r"]),
             h.make_node("Dropout", ["r", "ratio"], ["dr"], name="drop"), h.make_node("GlobalAveragePool", ["dr"], ["g"]),
             h.make_node("Flatten", ["g"], ["f"]), h.make_node("MatMul", ["f", "onnx::MatMul_9"], ["m"]),
             h.make_node("DequantizeLinear", ["stored", "scale"], ["w8"]), h.make_node("MatMul", ["m", "w8"], ["q"]),
             h.make_node("Cast", ["q"], ["qh"], to=T.FLOAT16), h.make_node("MatMul", ["qh", "half.weight"], ["lh"]),
             h.make_node("Cast", ["lh"], ["logits"], to=T.FLOAT), h.make_node("Softmax", ["logits"], ["probs"], name="soft"),
             h.make_node("ArgMax", ["logits"], ["choice"], name="pick", axis=1, keepdims=0)]
    inits = [init("conv.weight", f32(4, 3, 3, 3)), init("val_7", f32(4)), init("ratio", np.float32(0.1)), init("onnx::MatMul_9", f32(4, 5)),
             init("stored", np.arange(20, dtype=np.int8).reshape(5, 4)), init("scale", np.float32(0.1)),
             init("half.weight", f32(4, 3).astype(np.float16)), init("left_over", f32(6))]
    m = model(nodes, [vi("x", [1, 3, 8, 8])], [vi("probs", [1, 3]), vi("choice", [1], T.INT64)], inits, value_info=[vi("r", [1, 9, 9, 9])])
    write("damaged", m)
    nodes = [h.make_node("MatMul", ["x", "a"], ["p"], name="dense1"), h.make_node("Relu", ["p"], ["q"]),
             h.make_node("MatMul", ["q", "b"], ["r"], name="dense2"), h.make_node("Add", ["r", "bias"], ["y"])]
    m = model(nodes, [vi("x", ["n", 4])], [vi("y", None)], [init("a", f32(4, 4)), init("b", f32(4, 2)), init("bias", f32(2))])
    m.producer_name = "tf2onnx"
    write("no_bias", m)
    nodes = [h.make_node("Conv", ["x", "a.weight"], ["p"], name="a"), h.make_node("Conv", ["p", "b.weight"], ["q"], name="b"),
             h.make_node("Flatten", ["q"], ["f"]), h.make_node("Gemm", ["f", "fc.weight"], ["y"], name="fc", transB=1)]
    rules = {"a": ("FuseBatchNormIntoConv, RemoveOptionalBiasFromConv", "batch_norm.default](args = (%conv, %p_n_weight, %p_n_bias))"),
             "b": ("RemoveOptionalBiasFromConv", "conv2d.default](args = (%x, %p_b_weight))"),
             "fc": ("RemoveOptionalBiasFromGemm", "linear.default](args = (%view, %p_fc_weight, %p_fc_bias))")}
    for n in nodes:
        for key, value in zip(("pkg.onnxscript.rewriter.rule_name", "pkg.torch.onnx.fx_node"), rules.get(n.name, ())):
            n.metadata_props.add(key=key, value=value)
    write("rewritten", model(nodes, [vi("x", ["n", 3, 5, 5])], [vi("y", None)],
                             [init("a.weight", f32(4, 3, 3, 3)), init("b.weight", f32(2, 4, 3, 3)), init("fc.weight", f32(3, 2))]))


def merged():
    """What an optimiser makes of fresh norms: one tensor of ones and one of zeros for all, some through Identity, and the head a
    transposed copy of the embedding. layer_w, ln3 and layer_v are run twice: that module is shared, and stays so."""
    n = 4
    emb = f32(6, n)
    nodes = [h.make_node("Gather", ["emb", "ids"], ["x"]), h.make_node("LayerNormalization", ["x", "ones", "zeros"], ["a"], name="ln1"),
             h.make_node("MatMul", ["a", "w1"], ["b"]), h.make_node("Add", ["b", "zeros"], ["c"], name="bias1"),
             h.make_node("Identity", ["ones"], ["ln2.weight"], name="copy"),
             h.make_node("LayerNormalization", ["c", "ln2.weight", "zeros"], ["d"], name="ln2"),
             h.make_node("MatMul", ["d", "layer_w"], ["e"]), h.make_node("LayerNormalization", ["e", "ones", "zeros"], ["f"], name="ln3"),
             h.make_node("MatMul", ["f", "layer_v"], ["f2"]),
             h.make_node("MatMul", ["f2", "layer_w"], ["g"]), h.make_node("LayerNormalization", ["g", "ones", "zeros"], ["k"], name="ln3b"),
             h.make_node("MatMul", ["k", "layer_v"], ["k2"]), h.make_node("MatMul", ["k2", "head"], ["y"])]
    inits = [init("emb", emb), init("ones", np.ones(n, np.float32)), init("zeros", np.zeros(n, np.float32)), init("w1", f32(n, n)),
             init("layer_w", f32(n, n)), init("layer_v", f32(n, n)), init("head", np.ascontiguousarray(emb.T))]
    write("merged", model(nodes, [vi("ids", [2, 3], T.INT64)], [vi("y", None)], inits), {"ids": np.array([[0, 1, 2], [3, 4, 5]])})


def apart():
    """What untie leaves alone: a trained gain that two norms read, zeros that are subtracted too. A 1-d Constant that is looked up."""
    n = 4
    nodes = [h.make_node("LayerNormalization", ["x", "gain", "zeros"], ["a"], name="ln1"), h.make_node("MatMul", ["a", "w1"], ["b"]),
             h.make_node("LayerNormalization", ["b", "gain", "zeros"], ["c"], name="ln2"), h.make_node("MatMul", ["c", "w2"], ["d"]),
             h.make_node("Sub", ["d", "zeros"], ["e"]), h.make_node("Constant", [], ["steps"], value=init("v", f32(80))),
             h.make_node("Gather", ["steps", "ids"], ["s"]), h.make_node("Add", ["e", "s"], ["y"])]
    inits = [init("gain", f32(n)), init("zeros", np.zeros(n, np.float32)), init("w1", f32(n, n)), init("w2", f32(n, n))]
    m = model(nodes, [vi("x", [2, n]), vi("ids", [n], T.INT64)], [vi("y", None)], inits)
    write("apart", m, {"x": f32(2, n), "ids": np.arange(n)})


def old_ir():
    """Before IR version 4 initializers are inputs too; the weight is made by a node."""
    nodes = [h.make_node("ConstantOfShape", ["shape"], ["w"]), h.make_node("MatMul", ["x", "w"], ["y"])]
    shape = init("shape", np.array([4, 3]))
    write("old_ir", model(nodes, [vi("x", [2, 4]), vi("shape", [2], T.INT64)], [vi("y", None)], [shape], opset=9, ir=3), {"x": f32(2, 4)})


def broken():
    x, y = vi("x", ["n", 4]), vi("y", None)
    relu = h.make_node("Relu", ["x"], ["y"], name="r")
    write("bad_op", model([h.make_node("Frobnicate", ["x"], ["y"], name="f0")], [x], [y]))
    write("bad_domain", model([h.make_node("FusedThing", ["x"], ["y"], name="f1", domain="com.acme")], [x], [y], domains=["com.acme"]))
    write("side_branch", model([relu, h.make_node("Frobnicate", ["y"], ["z"], name="f2"), h.make_node("Neg", ["z"], ["side"])],
                               [x], [y, vi("side", None)]), {"x": f32(2, 4)}, model([relu], [x], [y]))
    write("bad_ir", model([relu], [x], [y], ir=2))
    write("bad_opset", model([relu], [x], [y], opset=5))
    write("bad_cycle", model([h.make_node("Add", ["x", "b"], ["a"], name="c0"), h.make_node("Neg", ["a"], ["b"], name="c1"),
                              h.make_node("Relu", ["b"], ["y"])], [x], [y]))
    write("bad_name", model([h.make_node("Add", ["x", "nowhere"], ["y"], name="a0")], [x], [y]))
    write("bad_twice", model([relu, h.make_node("Neg", ["x"], ["y"], name="n0")], [x], [y]))
    t = init("w", f32(4))
    t.raw_data = t.raw_data[:-3]
    write("bad_tensor", model([h.make_node("Add", ["x", "w"], ["y"])], [x], [y], [t]))
    then = h.make_graph([h.make_node("Neg", ["x"], ["t"])], "t", [], [vi("t", None)])
    other = h.make_graph([h.make_node("Relu", ["x"], ["e"])], "e", [], [vi("e", None)])
    write("bad_if", model([h.make_node("ReduceSum", ["x"], ["s"], keepdims=0), h.make_node("Cast", ["s"], ["c"], to=T.BOOL),
                           h.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="choose")], [x], [y]))
    f = h.make_function("my", "Again", ["x"], ["y"], [h.make_node("Again", ["x"], ["y"], domain="my")], [h.make_opsetid("my", 1)])
    write("bad_recursion", model([h.make_node("Again", ["x"], ["y"], domain="my")], [x], [y], functions=[f], domains=["my"]))
    write("bad_shape", model([h.make_node("NonZero", ["x"], ["y"], name="nz")], [x], [y]))
    tree = h.make_node("TreeEnsembleRegressor", ["x"], ["y"], name="forest", domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0, 0, 0],
                       nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0],
                       nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2],
                       target_ids=[0, 0], target_weights=[1.0, 2.0])
    write("bad_tree", model([tree], [x], [y], domains=["ai.onnx.ml"]))
    write("bad_string", model([h.make_node("Add", ["x", "s"], ["y"])], [x], [y], [h.make_tensor("s", T.STRING, [1], [b"a"])]))


os.makedirs(HERE, exist_ok=True)
link = os.path.join(HERE, "external_link.bin")
if not os.path.lexists(link):
    os.symlink("../meson.build", link)
for make in (functions, if_folded, loop, scan, sequences, typed, sparse, external, careless, half, parameters, broken, weights, merged,
             tables, damaged, apart, old_ir):
    make()
