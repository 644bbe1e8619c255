#!/usr/bin/env python3
"""ZeRO stages on CPU ranks, beside one rank with as many threads, PyTorch DDP (gloo) and, where it is installed, DeepSpeed.

usage: bench.py ZGRAPH [--names gpt_small,gpt2_124m] [--ranks 2] [--rounds 3] [--stages 0,1,2,3] [--peers ddp,zero1,zero2,zero3]
                       [--folder DIR] [--under COMMAND]

Same ONNX graph, weights, global batch and optimizer everywhere; a rank has one thread. All runs of a round follow each other, rounds
repeat them; the table has the best median. --under is put in front of every measured command (nice, taskset, ..).
"""
import argparse
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cpu"))
STEPS = dict(gpt_small=10, gpt2_124m=8)
MIB = 2.0**20


def status_of(pid):
    """Parent and peak of a process, None once it is gone."""
    try:
        rows = dict(s.split(":", 1) for s in open(f"/proc/{pid}/status").read().splitlines() if ":" in s)
        return int(rows["PPid"]), int(rows["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError, ValueError):
        return None


def watch(cmd, cwd):
    """Runs a command; returns its output and the peaks (VmHWM) of the processes below it that have no children."""
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd)
    peaks = {}
    while p.poll() is None:
        every = {int(d): s for d in os.listdir("/proc") if d.isdigit() and (s := status_of(d))}
        below = {p.pid}
        while grown := {q for q, (parent, _) in every.items() if parent in below} - below:
            below |= grown
        parents = {every[q][0] for q in below if q in every}
        for q in below - parents:
            if q in every:
                peaks[q] = every[q][1]
        for q in parents:
            peaks.pop(q, None)
        time.sleep(0.1)
    return p.returncode, p.stdout.read(), sorted(peaks.values(), reverse=True)


def export(folder, name, ranks):
    """NAME.onnx for the global batch and for a rank's part of it; the ranks' npz has the batches cut in their parts."""
    import workloads as W
    part, (b, t) = os.path.join(folder, f"of{ranks}"), W.TABLE[name]["shape"]
    os.makedirs(part, exist_ok=True)
    W.export(folder, name)
    W.export(part, name, shape=(b // ranks, t))
    x, y = W.batches(name)
    np.savez(os.path.join(part, name + ".npz"), x=x.reshape(-1, b // ranks, t), labels=y.reshape(-1, b // ranks, t))
    return os.path.join(folder, name), os.path.join(part, name)


def zgraph(a, stem, ranks, threads, stage, steps):
    sets = [f"num_processes={ranks}", f"threads={threads}", f"training.steps={steps}", f"zero.stage={stage}"]
    common = [stem + ".onnx", "--config", stem + ".yaml"] + [w for s in sets for w in ("--set", s)]
    plan = json.loads(subprocess.run([a.zgraph, "plan", *common, "--json", "--ranks", str(ranks), "--stage", str(stage)], check=True,
                                     capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as out:
        code, text, peaks = watch([*a.under, a.zgraph, "train", *common, "--out", out, "--quiet"], out)
        if code:
            sys.exit("zgraph failed: " + text[-500:])
        rows = [json.loads(s) for s in open(os.path.join(out, "metrics.jsonl"))]
    last, timed = rows[-1], [r for r in rows if "loss" in r]
    peaks = peaks[:ranks] if ranks > 1 else [last["memory/process_peak_bytes"] / MIB]
    sent = sum(v for k, v in plan.get("sent_per_update", {}).items() if k != "collectives" and k != "scalars")
    return dict(ms=1e3 * statistics.median(r["seconds"] for r in timed[3:]), losses=[r["loss"] for r in timed[:5]], peaks=peaks,
                planned=plan["planned_bytes"] / MIB, sent=last.get("comm/sent_bytes", 0) / MIB, planned_sent=sent / MIB)


def torch(a, name, ranks, mode, steps):
    cmd = [sys.executable, os.path.join(HERE, "torch_side.py"), name, mode, "1", str(steps), str(ranks)]
    code, text, _ = watch([*a.under, *cmd], HERE)
    line = next((s for s in text.splitlines() if "RESULT " in s), None)
    if code or not line:
        print(f"  {name} {mode} failed: {text[-300:]}", file=sys.stderr)
        return None
    return json.loads(line.split("RESULT ", 1)[1])


def runs_of(a, name, folder):
    whole, part = export(folder, name, a.ranks)
    steps = STEPS[name]
    yield f"zgraph, 1 rank of {a.ranks} threads", lambda: zgraph(a, whole, 1, a.ranks, 0, steps)
    for s in a.stages.split(","):
        yield f"zgraph, stage {s}", lambda s=s: zgraph(a, part, a.ranks, 1, int(s), steps)
    for mode in a.peers.split(",") if a.peers else []:
        if mode == "ddp" or importlib.util.find_spec("deepspeed"):
            yield "PyTorch DDP" if mode == "ddp" else f"DeepSpeed, stage {mode[4:]}", lambda m=mode: torch(a, name, a.ranks, m, steps)


def compare(a, name, folder):
    import workloads as W
    b, t = W.TABLE[name]["shape"]
    runs = list(runs_of(a, name, folder))
    best = {}
    for _ in range(a.rounds):
        for label, run in runs:
            r = run()
            if r and (label not in best or r["ms"] < best[label]["ms"]):
                best[label] = r
    one = best[runs[0][0]]
    print(f"\n{name}, {a.ranks} ranks of 1 thread, global batch {b} x {t}\n")
    print("| run | step ms | tokens/s | of 1 rank | planned MiB | peak MiB per rank | sent MiB, planned | sent MiB | loss off by |\n" + "|---" * 9 + "|")
    for label, r in best.items():
        off = max(abs(x - y) for x, y in zip(r["losses"], one["losses"]))
        plan = (f"{r['planned']:.1f}", f"{r['planned_sent']:.2f}", f"{r['sent']:.2f}") if "planned" in r else ("", "", "")
        print(f"| {label} | {r['ms']:.0f} | {1e3 * b * t / r['ms']:.0f} | {100 * one['ms'] / r['ms']:.0f} % | {plan[0]} | "
              f"{', '.join(f'{p:.0f}' for p in r['peaks'])} | {plan[1]} | {plan[2]} | {off:.0e} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("zgraph")
    p.add_argument("--names", default="gpt_small,gpt2_124m")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--stages", default="0,1,2,3")
    p.add_argument("--peers", default="ddp,zero1,zero2,zero3")
    p.add_argument("--folder", help="exported models, kept")
    p.add_argument("--under", type=shlex.split, default=[])
    a = p.parse_args()
    a.zgraph = os.path.abspath(a.zgraph)
    with tempfile.TemporaryDirectory() as d:
        for name in a.names.split(","):
            compare(a, name, os.path.abspath(a.folder) if a.folder else d)


if __name__ == "__main__":
    main()
