#!/usr/bin/env python3
"""How long `zgraph plan` takes, and how that grows: Llama-shaped files of several depths (llama.py), 1,024 ranks, stage 3.

usage: plan_time.py ZGRAPH [--layers 12,48,126,500]

Run it on one core of an idle machine (taskset -c 1). Prints user seconds, wall seconds and peak memory of each plan and of the 70B shape,
and the exponent of the growth: the slope of log(time) over log(nodes). Needs numpy and onnx.
"""
import argparse
import math
import os
import subprocess
import sys
import tempfile
import time

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("zgraph")
a.add_argument("--layers", default="12,48,126,500")
a = a.parse_args()
CONFIG = """loss: {kind: cross_entropy, logits: logits, labels: labels}
optimizer: {type: adamw, lr: 1.0e-4}
trainable: ["*"]
device: cpu
mixed_precision: bf16
"""


def plan(folder, name, *shape):
    model = os.path.join(folder, name + ".onnx")
    told = subprocess.run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama.py"), model, *shape],
                          check=True, stdout=subprocess.PIPE, text=True).stdout
    nodes = int(told.split(": ")[1].split()[0])
    start = time.time()
    child = subprocess.Popen([a.zgraph, "plan", model, "--config", os.path.join(folder, "run.yaml"), "--ranks", "1024", "--stage", "3", "--json"],
                             stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.time() - start
    if status:
        sys.exit("%s: zgraph plan failed" % name)
    seconds = used.ru_utime + used.ru_stime
    print("%-12s %7d nodes  %6.2f s on one core (%.2f s wall)  %6.1f MiB" % (name, nodes, seconds, wall, used.ru_maxrss / 1024), flush=True)
    return nodes, seconds


with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "run.yaml"), "w", encoding="utf-8") as f:
        f.write(CONFIG)
    rows = [plan(folder, "%d layers" % n, "--layers", str(n)) for n in map(int, a.layers.split(","))]
    plan(folder, "70B", "--layers", "80", "--width", "8192", "--heads", "64", "--hidden", "28672")
    if len(rows) > 1:
        x, y = [math.log(n) for n, _ in rows], [math.log(s) for _, s in rows]
        mx, my = sum(x) / len(x), sum(y) / len(y)
        slope = sum((u - mx) * (v - my) for u, v in zip(x, y)) / sum((u - mx) ** 2 for u in x)
        print("time grows with nodes to the power %.2f (%.2f over the last two)" % (slope, (y[-1] - y[-2]) / (x[-1] - x[-2])))
