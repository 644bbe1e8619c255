#!/usr/bin/env python3
"""zgraph on the GPU of this machine, beside PyTorch and llm.c: builds, tests, trains, and prints one table.

usage: bench.py [--names gpt2_124m,llama_1b,resnet50] [--steps 30] [--batch N] [--zgraph PROGRAM] [--skip-tests] [--peers eager,compile]
                [--llmc FOLDER] [--folder FOLDER] [--out FILE]
       bench.py --toy ...     the same at sizes of a few hundred weights, PyTorch on the CPU: for the emulator (tests/emulator), no figures

Needs Python with torch, torchvision, transformers, onnx, onnxscript, pyyaml and numpy; the table has "-" for a peer that does not run.
Exit status: 0 done, 1 something failed, 77 no GPU found.
"""
import argparse
import contextlib
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# Dense bf16 TFLOP/s as the makers state them, by whole words of the device's name: a GB200 is no B200, an A10G no A10.
PEAKS = [("H200", 989), ("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("B200", 2250), ("GB200", 2500), ("A100", 312), ("L40S", 362),
         ("L40", 181), ("A10", 125), ("RTX 5090", 210), ("RTX 4090", 165), ("RTX 3090", 71)]


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(cmd, **how):
    return subprocess.run(cmd, capture_output=True, text=True, **how)


def last_line(p):
    lines = (p.stderr + p.stdout).strip().splitlines()
    return lines[-1] if lines else f"status {p.returncode}"


def build(a):
    if a.zgraph:
        return os.path.abspath(a.zgraph)
    folder = os.path.join(ROOT, "build-gpu")
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        subprocess.run(["meson", "setup", folder, ROOT, "--buildtype=release"], check=True, stdout=sys.stderr)
    subprocess.run(["ninja", "-C", folder], check=True, stdout=sys.stderr)
    return os.path.join(folder, "src", "cli", "zgraph")


def find_gpu(zgraph):
    """Name of the GPU as zgraph sees it, or None with the reason printed."""
    text = run([zgraph, "devices"]).stdout
    for line in text.splitlines():
        m = re.match(r"cuda +[0-9]+ MiB of memory, ([^,]+)", line)
        if m:
            return m[1]
    say("no GPU found: the bench needs one of compute capability 8.0 or newer, with NVIDIA's driver and NVRTC. `zgraph devices` says:")
    say(text)
    return None


def test(zgraph):
    """The device conformance suite on this very device."""
    program = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(zgraph))), "tests", "conform", "conform_test")
    if not os.path.exists(program):
        say(f"not tested: {program} is not built")
        return True
    good = True
    for dtype in ("f32", "bf16", "f16"):
        p = run([program, "cuda", dtype], env=dict(os.environ, CK_FORK="no"))
        say(f"conformance {dtype}: " + ("passed" if p.returncode == 0 else last_line(p)))
        good = good and p.returncode == 0
    return good


class Watch(threading.Thread):
    """Most memory in use on the first GPU, by whomever, as nvidia-smi says, MiB; NaN without it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.stop = math.nan, threading.Event()

    def run(self):
        while shutil.which("nvidia-smi") and not self.stop.wait(0.5):
            p = run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"])
            used = [float(v) for v in p.stdout.split() if v.replace(".", "").isdigit()]
            if used:
                self.most = max(used[0], 0 if math.isnan(self.most) else self.most)


def run_zgraph(zgraph, stem, steps):
    with tempfile.TemporaryDirectory() as out:
        watch = Watch()
        watch.start()
        p = run([zgraph, "train", "--config", stem + ".yaml", "--set", f"training.steps={steps}", "--set", "mixed_precision=bf16",
                 "--out", out, "--quiet"])
        watch.stop.set()
        if p.returncode:
            say("zgraph failed: " + last_line(p))
            return None
        with open(os.path.join(out, "metrics.jsonl")) as f:
            rows = [json.loads(s) for s in f]
    timed = [r for r in rows if "loss" in r]
    planned = [r["memory/planned_bytes"] for r in rows if "memory/planned_bytes" in r]
    warm = max(1, min(5, len(timed) - 1))
    return dict(ms=1e3 * statistics.median(r["seconds"] for r in timed[warm:]), losses=[r["loss"] for r in timed[:5]], used_mib=watch.most,
                planned_mib=planned[-1] / 2**20 if planned else math.nan)


def flop_of(zgraph, stem):
    text = run([zgraph, "plan", "--config", stem + ".yaml", "--set", "mixed_precision=bf16", "--set", "device=cpu"]).stdout
    m = re.search(r"work of a step\s+([0-9.]+) ([kMGTP]?)FLOP", text)
    return float(m[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[m[2]] if m else math.nan


def run_torch(a, name, how):
    cmd = [sys.executable, os.path.join(HERE, "torch_side.py"), name, how, str(a.steps)]
    p = run(cmd + (["--batch", str(a.batch)] if a.batch else []) + (["--toy"] if a.toy else []), cwd=HERE)
    if p.returncode:
        say(f"PyTorch {how} on {name}: " + last_line(p))
        return None
    return json.loads(p.stdout.splitlines()[-1])


def run_llmc(a, name, batch):
    """llm.c's trainer where its sources are built: GPT-2 alone, on random tokens in its own format."""
    program = os.path.join(a.llmc, "train_gpt2cu") if a.llmc else ""
    if name != "gpt2_124m" or not os.path.exists(program):
        return None
    import numpy as np
    with tempfile.TemporaryDirectory() as d:
        tokens = np.random.default_rng(7).integers(0, 50257, batch * 1024 * 4 + 1, dtype=np.uint16)
        head = np.zeros(256, np.int32)
        head[:3] = 20240520, 1, len(tokens)
        with open(os.path.join(d, "data.bin"), "wb") as f:
            f.write(head.tobytes() + tokens.tobytes())
        data = os.path.join(d, "data.bin")
        p = run([program, "-e", "d12", "-i", data, "-j", data, "-b", str(batch), "-t", "1024", "-d", str(batch * 1024), "-x", str(a.steps),
                 "-v", "0", "-s", "0"], cwd=a.llmc)
    speeds = [float(v) for v in re.findall(r"([0-9.]+) tok/s", p.stdout)]
    if p.returncode or not speeds:
        say("llm.c: " + last_line(p))
        return None
    return dict(ms=1e3 * batch * 1024 / statistics.median(speeds[len(speeds) // 3:]), used_mib=math.nan, losses=[])


def number(v, form="{:,.0f}"):
    return "-" if v is None or (isinstance(v, float) and math.isnan(v)) else form.format(v)


def rows_of(a, zgraph, name, folder, peak):
    import models as M
    w, stem = M.spec(name, a.toy, a.batch), os.path.join(folder, name)
    if not os.path.exists(stem + ".yaml"):
        say(f"{name}: export")
        M.export(folder, name, a.toy, a.batch)
    work = flop_of(zgraph, stem)
    sides = [("zgraph", run_zgraph(zgraph, stem, a.steps))]
    sides += [(f"PyTorch {how}", run_torch(a, name, how)) for how in a.peers.split(",") if how]
    sides += [("llm.c", run_llmc(a, name, w["batch"]))] if a.llmc else []
    ours = sides[0][1]
    for side, r in sides:
        if not r:
            yield [name, side] + ["-"] * 7
            continue
        off = max((abs(x - y) for x, y in zip(ours["losses"], r["losses"])), default=math.nan) if ours else math.nan
        yield [name, side, number(r["ms"], "{:,.1f}"), number(1e3 * w["units"] / r["ms"]), number(work / 1e12, "{:.3g}"),
               number(100 * work / (r["ms"] * 1e-3) / (peak * 1e12) if peak else math.nan, "{:.1f}"), number(r.get("planned_mib")),
               number(r["used_mib"]), number(off, "{:.0e}")]


def peak_of(gpu):
    """TFLOP/s, 0 where it is not known."""
    return next((v for words, v in PEAKS if re.search(rf"\b{words}\b", gpu)), 0)


def table(a, zgraph, gpu, folder, out):
    peak = peak_of(gpu)
    print(f"{gpu}, bf16, peak {peak or 'unknown'} TFLOP/s, medians of {a.steps} steps\n", file=out)
    head = ["model", "trainer", "ms a step", "tokens or images/s", "TFLOP a step", "% of peak", "planned MiB", "used MiB", "loss differs by"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), file=out, flush=True)
    failed = 0
    for name in a.names.split(","):
        for row in rows_of(a, zgraph, name, folder, peak):
            failed += row[1] == "zgraph" and row[2] == "-"
            print("| " + " | ".join(row) + " |", file=out, flush=True)
    return failed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--names", default="gpt2_124m,llama_1b,resnet50")
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--batch", type=int)
    p.add_argument("--zgraph", help="built program; default: builds one in build-gpu/")
    p.add_argument("--skip-tests", action="store_true")
    p.add_argument("--peers", default="eager,compile")
    p.add_argument("--llmc", help="folder of llm.c with train_gpt2cu built")
    p.add_argument("--folder", help="exported models, kept")
    p.add_argument("--out", help="file for the table")
    p.add_argument("--toy", action="store_true")
    a = p.parse_args()
    began = time.time()
    zgraph = build(a)
    gpu = find_gpu(zgraph)
    if not gpu:
        return 77
    good = a.skip_tests or test(zgraph)
    with tempfile.TemporaryDirectory() as d:
        folder = os.path.abspath(a.folder) if a.folder else d
        os.makedirs(folder, exist_ok=True)
        sys.path.insert(0, HERE)
        with open(a.out, "w") if a.out else contextlib.nullcontext(sys.stdout) as out:
            failed = table(a, zgraph, gpu, folder, out)
    say(f"{time.time() - began:.0f} s")
    return 1 if failed or not good else 0


if __name__ == "__main__":
    sys.exit(main())
