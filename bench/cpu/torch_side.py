"""One training run in PyTorch; prints a JSON line. usage: torch_side.py NAME f32|bf16 eager|compile|channels_last THREADS STEPS"""
import json
import resource
import statistics
import sys
import time

began = time.time()
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import workloads as W  # noqa: E402

name, dtype, how, threads, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(threads)
model = W.build(name)
xs, ys = (torch.from_numpy(v) for v in W.batches(name))
o = W.optimizer_of(name)
if how == "channels_last":
    model, xs = model.to(memory_format=torch.channels_last), [x.contiguous(memory_format=torch.channels_last) for x in xs]
if o["type"] == "sgd":
    opt = torch.optim.SGD(model.parameters(), lr=o["lr"], momentum=o["momentum"])
else:
    opt = torch.optim.AdamW(model.parameters(), lr=o["lr"], betas=o["betas"], eps=o["eps"], weight_decay=o["weight_decay"], fused=True)


def loss_of(x, y):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        return F.cross_entropy(model(x).flatten(0, -2).float(), y.flatten())


if how == "compile":
    loss_of = torch.compile(loss_of)
losses, times, first = [], [], None
for i in range(steps):
    t = time.time()
    loss = loss_of(xs[i % len(xs)], ys[i % len(ys)])
    loss.backward()
    opt.step()
    opt.zero_grad(set_to_none=True)
    losses.append(loss.item())
    times.append(time.time() - t)
    first = first or time.time() - began
warm = max(1, min(3, steps - 1))
print(json.dumps(dict(how=how, ms=1e3 * statistics.median(times[warm:]), losses=losses[:5], first_s=first,
                      peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
