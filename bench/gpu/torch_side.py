"""One training run in PyTorch on a GPU (with --toy: on the CPU); prints a JSON line.

usage: torch_side.py NAME eager|compile STEPS [--batch N] [--toy]
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

import models as M

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("name")
p.add_argument("how", choices=["eager", "compile"])
p.add_argument("steps", type=int)
p.add_argument("--batch", type=int)
p.add_argument("--toy", action="store_true")
a = p.parse_args()
on = "cpu" if a.toy else "cuda"
w = M.spec(a.name, a.toy, a.batch)
model = M.build(a.name, a.toy).to(on)
xs, ys = (torch.from_numpy(v).to(on) for v in M.batches(w))
if a.name == "resnet50":      # what PyTorch's own recipes do for convolutions
    model, xs = model.to(memory_format=torch.channels_last), [x.contiguous(memory_format=torch.channels_last) for x in xs]
o = w["optimizer"]
if o["type"] == "sgd":
    opt = torch.optim.SGD(model.parameters(), lr=o["lr"], momentum=o["momentum"], fused=True)
else:
    opt = torch.optim.AdamW(model.parameters(), lr=o["lr"], betas=o["betas"], eps=o["eps"], weight_decay=o["weight_decay"], fused=True)
torch.set_float32_matmul_precision("high")


def loss_of(x, y):
    with torch.autocast(on, torch.bfloat16):
        return F.cross_entropy(model(x).flatten(0, -2).float(), y.flatten())


if a.how == "compile":
    loss_of = torch.compile(loss_of)


def wait():
    if on == "cuda":
        torch.cuda.synchronize()


losses, times = [], []
for i in range(a.steps):
    t = time.time()
    loss = loss_of(xs[i % len(xs)], ys[i % len(ys)])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    opt.zero_grad(set_to_none=True)
    wait()
    losses.append(loss.item())
    times.append(time.time() - t)
warm = max(1, min(5, a.steps - 1))
print(json.dumps(dict(ms=1e3 * statistics.median(times[warm:]), losses=losses[:5],
                      used_mib=torch.cuda.max_memory_reserved() / 2**20 if on == "cuda" else None)))
