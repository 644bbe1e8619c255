"""What the export scripts share: a task for the exported model, and the configuration that trains it."""
import os
import sys

import numpy as np

CONFIG = """model: {model}
data:
  train: {{path: {data}, batch_size: 16, shuffle: true}}
loss: {loss}
optimizer: {{type: adamw, lr: 2.0e-3, weight_decay: 0.01}}
training: {{steps: 60, log_every: 20, output_dir: {out}}}
"""


def out_dir():
    """The folder named on the command line, made if it is not there."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(sys.modules["__main__"].__doc__)
    os.makedirs(sys.argv[1], exist_ok=True)
    return sys.argv[1]


def blobs(n=512, features=8, classes=4, seed=0):
    """Points around `classes` centres: something that a small net learns in a few steps."""
    r = np.random.default_rng(seed)
    y = r.integers(0, classes, n)
    return (r.standard_normal((classes, features))[y] * 2 + r.standard_normal((n, features))).astype(np.float32), y.astype(np.int64)


def spots(n=512, size=12, classes=4, seed=0):
    """Images [n, 1, size, size] with a bright spot in one of four corners."""
    r = np.random.default_rng(seed)
    y = r.integers(0, classes, n)
    x = r.standard_normal((n, 1, size, size)).astype(np.float32) * 0.5
    for i, c in enumerate(y):
        top, left = (c // 2) * (size // 2) + 1, (c % 2) * (size // 2) + 1
        x[i, 0, top:top + 3, left:left + 3] += 2
    return x, y.astype(np.int64)


def sentences(n=256, length=24, vocabulary=32, seed=0):
    """Token sequences that count upwards by a step of their own, and the same shifted by one as labels."""
    r = np.random.default_rng(seed)
    start, step = r.integers(0, vocabulary, (n, 1)), r.integers(1, 4, (n, 1))
    x = (start + step * np.arange(length + 1)) % vocabulary
    return x[:, :-1].astype(np.int64), x[:, 1:].astype(np.int64)


def write_task(folder, inputs, labels, loss):
    """Writes data.npz and run.yaml beside model.onnx: `zgraph train --config FOLDER/run.yaml`."""
    path = os.path.abspath(folder)
    data = os.path.join(path, "data.npz")
    np.savez(data, labels=labels, **inputs)
    with open(os.path.join(path, "run.yaml"), "w", encoding="utf-8") as f:
        f.write(CONFIG.format(model=os.path.join(path, "model.onnx"), data=data, loss=loss, out=os.path.join(path, "out")))
