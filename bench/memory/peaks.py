#!/usr/bin/env python3
"""Planned peak, its lower bound, what the process really took, and what PyTorch's process takes for the same model.

usage: peaks.py ZGRAPH MODEL.onnx:CONFIG.yaml ... [--torch WORKLOADS_DIR NAME ...]

For each model: `zgraph plan --json`, then `zgraph train` for two steps, whose metrics tell planned and allocated bytes and the process's
high-water mark (VmHWM). With --torch, for each NAME of a module `workloads` in that folder (build(NAME) gives the model, batches(NAME, n) inputs
and labels), a process of its own trains two steps with AdamW in PyTorch and tells its own VmHWM; the size of a process that has only
imported torch is taken off. Needs nothing for zgraph; torch for --torch.
"""
import json
import os
import subprocess
import sys
import tempfile

TORCH = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import torch
mark = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10
empty = mark()
import workloads as W
name = sys.argv[2]
torch.manual_seed(0)
model, (x, y) = W.build(name), W.batches(name, 2)
model.mask = False
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for step in range(2):
    logits = model(torch.from_numpy(x[step].copy()))
    labels = torch.from_numpy(y[step].copy())
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
print(mark(), empty)
"""


def zgraph(binary, model, config):
    with tempfile.TemporaryDirectory() as out:
        plan = json.loads(subprocess.run([binary, "plan", model, "--config", config, "--json"], check=True, stdout=subprocess.PIPE).stdout)
        subprocess.run([binary, "train", model, "--config", config, "--quiet", "--set", "training.steps=2", "--set", "training.save_every=0", "--out", out],
                       check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as f:
            told = [json.loads(line) for line in f][-1]
    return plan["planned_bytes"], plan["lower_bound_bytes"], told["memory/allocated_bytes"], told["memory/process_peak_bytes"]


def main():
    args = sys.argv[2:]
    at = args.index("--torch") if "--torch" in args else len(args)
    mib = lambda n: "%9.1f" % (n / 2**20)
    print("%-24s %9s %9s %9s %9s %9s" % ("MiB", "planned", "bound", "allocated", "process", "rest"))
    for pair in args[:at]:
        model, config = pair.rsplit(":", 1)
        planned, bound, allocated, process = zgraph(sys.argv[1], model, config)
        name = os.path.splitext(os.path.basename(config))[0]
        print("%-24s %s %s %s %s %s" % (name, mib(planned), mib(bound), mib(allocated), mib(process), mib(process - planned)), flush=True)
    for name in args[at + 2:]:
        run = subprocess.run([sys.executable, "-c", TORCH, args[at + 1], name], check=True, stdout=subprocess.PIPE, text=True)
        peak, empty = map(int, run.stdout.split())
        print("%-24s PyTorch: process %s, without what import takes %s" % (name, mib(peak), mib(peak - empty)), flush=True)


if __name__ == "__main__":
    main()
