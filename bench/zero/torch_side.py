"""One training run over ranks in PyTorch; rank 0 prints a JSON line.

usage: torch_side.py NAME ddp|zero1|zero2|zero3 THREADS STEPS RANKS      starts the ranks, too

ddp: DistributedDataParallel over gloo. zeroS: DeepSpeed's stage S with its defaults, around the same fused AdamW. Every rank has its
part of the global batch that bench/cpu/workloads.py makes; a step is timed between barriers.
"""
import json
import os
import statistics
import subprocess
import sys
import time

if "RANK" not in os.environ:
    env = dict(os.environ, WORLD_SIZE=sys.argv[5], LOCAL_WORLD_SIZE=sys.argv[5], MASTER_ADDR="127.0.0.1", MASTER_PORT="29611")
    ranks = [subprocess.Popen([sys.executable, *sys.argv], env=dict(env, RANK=str(r), LOCAL_RANK=str(r))) for r in range(int(sys.argv[5]))]
    sys.exit(max(p.wait() for p in ranks))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cpu"))
import workloads as W  # noqa: E402

name, mode, threads, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
if mode != "ddp":
    import deepspeed
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model, o = W.build(name), W.optimizer_of(name)
adamw = torch.optim.AdamW(model.parameters(), lr=o["lr"], betas=o["betas"], eps=o["eps"], weight_decay=o["weight_decay"], fused=True)
xs, ys = (torch.from_numpy(v) for v in W.batches(name))
per = xs.shape[1] // world

if mode == "ddp":
    net = torch.nn.parallel.DistributedDataParallel(model)

    def train(x, y):
        loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
        loss.backward()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss
else:
    config = dict(train_micro_batch_size_per_gpu=per, zero_optimization=dict(stage=int(mode[4:])), zero_allow_untested_optimizer=True,
                  zero_force_ds_cpu_optimizer=False, steps_per_print=10 ** 9)
    net, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), optimizer=adamw, config=config)

    def train(x, y):
        loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
        net.backward(loss)
        net.step()
        return loss

losses, times = [], []
for i in range(steps):
    mine = slice(rank * per, (rank + 1) * per)
    x, y = xs[i % len(xs)][mine], ys[i % len(ys)][mine]
    dist.barrier()
    began = time.time()
    loss = train(x, y).detach().clone()
    dist.all_reduce(loss)
    dist.barrier()
    times.append(time.time() - began)
    losses.append(loss.item() / world)
peak = int(next(s.split()[1] for s in open("/proc/self/status") if s.startswith("VmHWM"))) / 1024
peaks = [None] * world
dist.all_gather_object(peaks, peak)
if rank == 0:
    print("RESULT " + json.dumps(dict(ms=1e3 * statistics.median(times[3:]), losses=losses[:5], peaks=peaks)), flush=True)
dist.barrier()
dist.destroy_process_group()
