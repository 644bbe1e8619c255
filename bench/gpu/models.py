"""The models of the GPU benchmark as PyTorch modules, their batches, and their export to ONNX.

usage: models.py FOLDER NAME [--batch N] [--toy]     writes NAME.onnx, NAME.npz (leading axis: step) and NAME.yaml (zgraph's configuration)
"""
import argparse
import os

import numpy as np
import torch
import torch.nn as nn
import yaml

SEED, STEPS = 7, 3      # batches in the file; runs go round
ADAMW = dict(type="adamw", lr=3e-4, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1)
SGD = dict(type="sgd", lr=0.1, momentum=0.9)
# batch: of one step; length: tokens of a sample (0: samples are images)
TABLE = {
    "gpt2_124m": dict(batch=32, length=1024, vocab=50257, optimizer=ADAMW),
    "llama_1b": dict(batch=4, length=2048, vocab=128256, optimizer=ADAMW),
    "resnet50": dict(batch=128, length=0, classes=1000, size=224, optimizer=SGD),
}
TOY = {
    "gpt2_124m": dict(batch=2, length=16, vocab=64, optimizer=ADAMW),
    "llama_1b": dict(batch=2, length=16, vocab=64, optimizer=ADAMW),
    "resnet50": dict(batch=4, length=0, classes=10, size=16, optimizer=SGD),
}


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(input_ids=x).logits


def gpt2_124m(toy):
    from transformers import GPT2Config, GPT2LMHeadModel
    size = dict(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2) if toy else {}
    return Logits(GPT2LMHeadModel(GPT2Config(use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **size)))


def llama_1b(toy):
    from transformers import LlamaConfig, LlamaForCausalLM
    size = (dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2) if toy else
            dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8))
    return Logits(LlamaForCausalLM(LlamaConfig(use_cache=False, max_position_embeddings=2048, tie_word_embeddings=True, **size)))


def resnet50(toy):
    import torchvision
    if not toy:
        return torchvision.models.resnet50()
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def spec(name, toy, batch=None):
    w = dict((TOY if toy else TABLE)[name])
    w["batch"] = batch or w["batch"]
    w["units"] = w["batch"] * (w["length"] or 1)
    return w


def build(name, toy=False):
    torch.manual_seed(SEED)
    return dict(gpt2_124m=gpt2_124m, llama_1b=llama_1b, resnet50=resnet50)[name](toy).train()


def batches(w):
    rng = np.random.default_rng(SEED)
    if w["length"]:
        ids = rng.integers(0, w["vocab"], (STEPS, w["batch"], w["length"] + 1), dtype=np.int64)
        return ids[..., :-1].copy(), ids[..., 1:].copy()
    x = rng.standard_normal((STEPS, w["batch"], 3, w["size"], w["size"]), dtype=np.float32)
    return x, rng.integers(0, w["classes"], (STEPS, w["batch"]), dtype=np.int64)


def export(folder, name, toy=False, batch=None):
    w, model = spec(name, toy, batch), build(name, toy)
    x, y = batches(w)
    stem = os.path.join(os.path.abspath(folder), name)
    large = sum(p.numel() for p in model.parameters()) > 4e8      # one protobuf ends at 2 GB
    torch.onnx.export(model, (torch.from_numpy(x[0].copy()),), stem + ".onnx", dynamo=True, optimize=False, external_data=large, input_names=["x"],
                      output_names=["logits"], opset_version=20, verbose=False)
    np.savez(stem + ".npz", x=x, labels=y)
    c = {"model": stem + ".onnx", "loss": {"kind": "cross_entropy", "logits": "logits", "labels": "labels"}, "optimizer": w["optimizer"],
         "trainable": [n for n, _ in model.named_parameters(remove_duplicate=False)], "dropout": "off", "device": "cuda",
         "data": {"train": {"path": stem + ".npz", "format": "batches", "shuffle": False}},
         "training": {"log_every": 1, "gradient_clipping": 1.0, "seed": 1, "keep": 0}}
    with open(stem + ".yaml", "w") as f:
        yaml.safe_dump(c, f)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("name", choices=TABLE)
    p.add_argument("--batch", type=int)
    p.add_argument("--toy", action="store_true")
    a = p.parse_args()
    os.makedirs(a.folder, exist_ok=True)
    export(a.folder, a.name, a.toy, a.batch)
