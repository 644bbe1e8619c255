"""The models of the comparison, as PyTorch modules that give logits, with their batches; and their export to ONNX.

usage: workloads.py FOLDER [NAME...]      writes NAME.onnx, NAME.npz (leading axis: step) and NAME.yaml (zgraph's configuration)
"""
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import yaml

SEED = 7
ADAMW = dict(type="adamw", lr=3e-4, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01)
SGD = dict(type="sgd", lr=0.01, momentum=0.9)
# name: shape of one batch's input; vocabulary of inputs (0: real numbers); classes, per token or per sample; optimizer;
# multiply-adds of the forward pass are counted from the exported graph (zgraph plan), not here
TABLE = {
    "gpt_small": dict(shape=(8, 256), vocab=256, per_token=True, bf16=True, steps=12),
    "gpt2_124m": dict(shape=(4, 64), vocab=50257, per_token=True, bf16=True, steps=8),
    "llama_small": dict(shape=(4, 256), vocab=4096, per_token=True, bf16=True, steps=10),
    "bert_base": dict(shape=(8, 128), vocab=30522, classes=4, bf16=True, steps=6, lr=5e-5),
    "resnet18": dict(shape=(32, 3, 32, 32), classes=10, optimizer=SGD, steps=12),
    "mlp": dict(shape=(128, 784), classes=10, steps=200),
    "lstm_lm": dict(shape=(16, 64), vocab=256, per_token=True, steps=30),
}


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d))


class GPT(nn.Module):
    def __init__(self, vocab=256, d=384, layers=6, heads=6, length=256):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Parameter(0.02 * torch.randn(length, d))
        self.mix = nn.ModuleList(nn.Sequential(nn.LayerNorm(d), Attention(d, heads)) for _ in range(layers))
        self.mlp = nn.ModuleList(nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, vocab, bias=False))

    def forward(self, ids):
        x = self.tok(ids) + self.pos[: ids.shape[1]]
        for mix, mlp in zip(self.mix, self.mlp):
            x = x + mix(x)
            x = x + mlp(x)
        return self.head(x)


class LSTM(nn.Module):
    def __init__(self, d=256):
        super().__init__()
        self.tok, self.rnn, self.head = nn.Embedding(256, d), nn.LSTM(d, d, 2, batch_first=True), nn.Linear(d, 256)

    def forward(self, ids):
        return self.head(self.rnn(self.tok(ids))[0])


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids).logits


def gpt2_124m():
    from transformers import GPT2Config, GPT2LMHeadModel
    return Logits(GPT2LMHeadModel(GPT2Config(use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)))


def bert_base():
    from transformers import BertConfig, BertForSequenceClassification
    return Logits(BertForSequenceClassification(BertConfig(num_labels=4, hidden_dropout_prob=0, attention_probs_dropout_prob=0)))


def llama_small():
    from transformers import LlamaConfig, LlamaForCausalLM
    return Logits(LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, use_cache=False,
                                               num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=512)))


def resnet18():
    import torchvision
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


MAKE = dict(gpt_small=GPT, gpt2_124m=gpt2_124m, llama_small=llama_small, bert_base=bert_base, resnet18=resnet18, mlp=mlp, lstm_lm=LSTM)


def build(name, **size):
    torch.manual_seed(SEED)
    return MAKE[name](**size).train()


def optimizer_of(name):
    w = TABLE[name]
    o = dict(w.get("optimizer", ADAMW))
    o["lr"] = w.get("lr", o["lr"])
    return o


def batches(name, steps=8, shape=None):
    w, rng = TABLE[name], np.random.default_rng(SEED)
    shape = shape or w["shape"]
    if w.get("per_token"):
        ids = rng.integers(0, w["vocab"], (steps, shape[0], shape[1] + 1), dtype=np.int64)
        return ids[..., :-1].copy(), ids[..., 1:].copy()
    x = rng.integers(0, w["vocab"], (steps, *shape), dtype=np.int64) if "vocab" in w else rng.standard_normal((steps, *shape), dtype=np.float32)
    return x, rng.integers(0, w["classes"], (steps, shape[0]), dtype=np.int64)


def export(folder, name, shape=None, **size):
    model, (x, y) = build(name, **size), batches(name, shape=shape)
    stem = os.path.join(folder, name)
    torch.onnx.export(model, (torch.from_numpy(x[0].copy()),), stem + ".onnx", dynamo=True, optimize=False, external_data=False,
                      input_names=["x"], output_names=["logits"], opset_version=20, verbose=False)
    np.savez(stem + ".npz", x=x, labels=y)
    c = {"loss": {"kind": "cross_entropy", "logits": "logits", "labels": "labels"}, "optimizer": optimizer_of(name),
         "trainable": [n for n, _ in model.named_parameters(remove_duplicate=False)], "dropout": "off", "device": "cpu",
         "data": {"train": {"path": os.path.abspath(stem + ".npz"), "format": "batches", "shuffle": False}},
         "training": {"log_every": 1, "gradient_clipping": 0, "seed": 1}}
    with open(stem + ".yaml", "w") as f:
        yaml.safe_dump(c, f)


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    for n in sys.argv[2:] or TABLE:
        export(sys.argv[1], n)
        print(n, flush=True)
