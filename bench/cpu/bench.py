#!/usr/bin/env python3
"""zgraph beside PyTorch on the CPU: the same ONNX file, weights, batches and optimizer; runs alternate, medians are compared.

usage: bench.py ZGRAPH [--names gpt_small,mlp] [--dtypes f32,bf16] [--threads 2] [--rounds 2] [--folder DIR] [--peers eager,compile]
       bench.py ZGRAPH --scale [--folder DIR]
"""
import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TUNED = dict(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="17179869184")


def peak_gflops(threads, n=1536):
    """Best of a few f32 products: what the percentages are of."""
    code = (f"import torch,time; torch.set_num_threads({threads}); a=torch.randn({n},{n}); best=1e9\n"
            f"for _ in range(12):\n t=time.time(); a@a; best=min(best,time.time()-t)\nprint(2*{n}**3/best/1e9)")
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def run_torch(name, dtype, how, threads, steps):
    env = dict(os.environ, **(TUNED if how.endswith("+malloc") else {}))
    cmd = [sys.executable, os.path.join(HERE, "torch_side.py"), name, dtype, how.replace("+malloc", ""), str(threads), str(steps)]
    p = subprocess.run(cmd, capture_output=True, text=True, env=env, cwd=HERE)
    if p.returncode:
        print(f"  {name} {dtype} {how} failed: {p.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return dict(json.loads(p.stdout.splitlines()[-1]), how=how)


def run_zgraph(zgraph, stem, dtype, threads, steps, extra=()):
    with tempfile.TemporaryDirectory() as out:
        cmd = [zgraph, "train", stem + ".onnx", "--config", stem + ".yaml", "--set", f"training.steps={steps}", "--set", f"threads={threads}",
               "--set", f"mixed_precision={'bf16' if dtype == 'bf16' else 'no'}", "--out", out, *extra]
        began = time.time()
        p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        first, text = None, []
        for line in p.stdout:
            text.append(line)
            if first is None and line.startswith("step "):
                first = time.time() - began
        if p.wait():
            sys.exit("zgraph failed: " + "".join(text[-5:]))
        rows = [json.loads(s) for s in open(os.path.join(out, "metrics.jsonl"))]
    steps_of = [r for r in rows if "loss" in r]
    peak = [r["memory/process_peak_bytes"] for r in rows if "memory/process_peak_bytes" in r]
    warm = max(1, min(3, len(steps_of) - 1))
    return dict(ms=1e3 * statistics.median(r["seconds"] for r in steps_of[warm:]), losses=[r["loss"] for r in steps_of[:5]],
                first_s=first, peak_mib=peak[-1] / 2**20 if peak else math.nan)


def gflop_of(zgraph, stem):
    text = subprocess.run([zgraph, "plan", stem + ".onnx", "--config", stem + ".yaml"], capture_output=True, text=True).stdout
    m = re.search(r"work of a step\s+([0-9.]+) ([GMT])FLOP", text)
    return float(m[1]) * {"M": 1e-3, "G": 1, "T": 1e3}[m[2]] if m else math.nan


def compare(a, folder):
    import workloads as W
    peak = peak_gflops(a.threads)
    print(f"{a.threads} threads; best f32 product {peak:.0f} GFLOP/s\n")
    head = ["workload", "dtype", "zgraph ms", "per s", "PyTorch ms", "per s", "best of", "ratio", "GFLOP", "% of f32 peak", "peak MiB", "PyTorch", "first loss s", "PyTorch",
            "loss difference"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in a.names.split(",") if a.names else W.TABLE:
        w, stem = W.TABLE[name], os.path.join(folder, name)
        if not os.path.exists(stem + ".yaml"):
            subprocess.run([sys.executable, os.path.join(HERE, "workloads.py"), folder, name], check=True, capture_output=True)
        work = gflop_of(a.zgraph, stem)
        count = w["shape"][0] * (w["shape"][1] if w.get("per_token") else 1)
        for dtype in ["f32"] + (["bf16"] if w.get("bf16") else []):
            if dtype not in a.dtypes.split(","):
                continue
            peers = a.peers.split(",") + (["channels_last+malloc"] if name == "resnet18" else [])
            ours, theirs = [], []
            for _ in range(a.rounds):
                ours.append(run_zgraph(a.zgraph, stem, dtype, a.threads, w["steps"]))
                theirs += [r for r in (run_torch(name, dtype, how, a.threads, w["steps"]) for how in peers) if r]
            z = min(ours, key=lambda r: r["ms"])
            if not theirs:
                continue
            t = min(theirs, key=lambda r: r["ms"])
            off = max(abs(x - y) for x, y in zip(z["losses"], t["losses"]))
            row = [name, dtype, f"{z['ms']:.1f}", f"{1e3 * count / z['ms']:.0f}", f"{t['ms']:.1f}", f"{1e3 * count / t['ms']:.0f}", t["how"], f"{t['ms'] / z['ms']:.2f}",
                   f"{work:.1f}", f"{100 * work / z['ms'] * 1e3 / peak:.0f}", f"{z['peak_mib']:.0f}", f"{t['peak_mib']:.0f}",
                   f"{z['first_s']:.2f}", f"{t['first_s']:.2f}", f"{off:.0e}"]
            print("| " + " | ".join(row) + " |", flush=True)


def scale(a, folder):
    """Step and planning time of the small GPT as batch, length and depth grow; the slope is that of the log-log line."""
    import workloads as W
    cases = {"batch": [dict(shape=(b, 128), layers=2) for b in (2, 4, 8, 16)], "length": [dict(shape=(4, t), layers=2) for t in (64, 128, 256, 512)],
             "depth": [dict(shape=(4, 64), layers=n) for n in (2, 4, 8, 16)]}
    for what, sizes in cases.items():
        x, step, plan, work = [], [], [], []
        for c in sizes:
            W.export(folder, "gpt_small", shape=c["shape"], layers=c["layers"], length=c["shape"][1])
            stem = os.path.join(folder, "gpt_small")
            x.append(dict(batch=c["shape"][0], length=c["shape"][1], depth=c["layers"])[what])
            step.append(run_zgraph(a.zgraph, stem, "f32", a.threads, 5)["ms"])
            work.append(gflop_of(a.zgraph, stem))
            t = time.time()
            gflop_of(a.zgraph, stem)
            plan.append(1e3 * (time.time() - t))
        slope = [np.polyfit(np.log(x), np.log(v), 1)[0] for v in (step, plan, work)]
        print(f"{what:7} {x}\n  step ms  {[round(v, 1) for v in step]}  slope {slope[0]:.2f} (arithmetic {slope[2]:.2f})\n"
              f"  plan ms  {[round(v, 1) for v in plan]}  slope {slope[1]:.2f}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("zgraph")
    p.add_argument("--names")
    p.add_argument("--dtypes", default="f32,bf16")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--peers", default="eager,eager+malloc,compile+malloc")
    p.add_argument("--folder", help="exported models, kept")
    p.add_argument("--scale", action="store_true")
    a = p.parse_args()
    a.zgraph = os.path.abspath(a.zgraph)
    with tempfile.TemporaryDirectory() as d:
        (scale if a.scale else compare)(a, os.path.abspath(a.folder) if a.folder else d)


if __name__ == "__main__":
    main()
