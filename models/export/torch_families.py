#!/usr/bin/env python3
"""Small models of many families, exported from PyTorch, torchvision and Hugging Face code with random weights.

usage: torch_families.py OUT [NAME ...]      writes OUT/NAME/{model.onnx, case.yaml, data.npz}
Each case is trained by cross-entropy or mean squares on random data; sizes are chosen for files below about 150 kB.
"""
import logging
import os
import sys
import warnings

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import yaml

warnings.filterwarnings("ignore")
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
torch.set_num_threads(1)
STEPS, B, T, V = 3, 2, 12, 40
LEGACY = ("t5", "swin", "transformer_torch")
CASES = {}


def case(f):
    CASES[f.__name__] = f
    return f


class Pick(nn.Module):
    """A Hugging Face model by keyword, returning one tensor."""

    def __init__(self, m, names, pick="logits", **fixed):
        super().__init__()
        self.m, self.names, self.pick, self.fixed = m, names, pick, fixed

    def forward(self, *args):
        r = self.m(**dict(zip(self.names, args)), **self.fixed)
        return r[self.pick] if isinstance(r, dict) else getattr(r, self.pick)


def rng(seed=0):
    return np.random.default_rng(seed)


def ids(n=STEPS, length=T, vocab=V):
    return rng(1).integers(3, vocab, (n, B, length)).astype(np.int64)


def images(size=16, channels=3, n=STEPS):
    return rng(2).standard_normal((n, B, channels, size, size)).astype(np.float32)


def classes(n_classes, n=STEPS):
    return rng(3).integers(0, n_classes, (n, B)).astype(np.int64)


def lm(model, **fixed):
    x = ids()
    return Pick(model, ["input_ids"], use_cache=False, **fixed), {"input_ids": x}, np.roll(x, -1, 2), {}


def hf():
    import transformers
    transformers.logging.set_verbosity_error()
    return transformers


TINY = dict(vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32)


@case
def gpt_neox():
    t = hf()
    return lm(t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**TINY, rotary_pct=0.5)))


@case
def opt():
    t = hf()
    return lm(t.OPTForCausalLM(t.OPTConfig(vocab_size=V, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32, word_embed_proj_dim=16, dropout=0.0)))


@case
def qwen2():
    t = hf()
    return lm(t.Qwen2ForCausalLM(t.Qwen2Config(**TINY, num_key_value_heads=1)))


@case
def gemma():
    t = hf()
    return lm(t.GemmaForCausalLM(t.GemmaConfig(**TINY, num_key_value_heads=1, head_dim=8)))


def experts(model):
    """The loop over experts depends on the data; the batched form gathers each token's expert matrices and multiplies them, densely."""
    model.set_experts_implementation("batched_mm")
    return lm(model)


@case
def mixtral():
    t = hf()
    return experts(t.MixtralForCausalLM(t.MixtralConfig(**TINY, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2)))


@case
def qwen2_moe():
    t = hf()
    return experts(t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(**TINY, num_key_value_heads=1, moe_intermediate_size=24, num_experts=3,
                                                          shared_expert_intermediate_size=20, num_experts_per_tok=2)))


@case
def olmoe():
    t = hf()
    return experts(t.OlmoeForCausalLM(t.OlmoeConfig(**TINY, num_key_value_heads=1, num_experts=3, num_experts_per_tok=2, eos_token_id=None,
                                                    pad_token_id=0)))


@case
def mamba():
    t = hf()
    return lm(t.MambaForCausalLM(t.MambaConfig(vocab_size=V, hidden_size=16, state_size=4, num_hidden_layers=1, expand=2, conv_kernel=3, time_step_rank=2, use_mambapy=False)))


def encoder(model, n=3):
    x = ids()
    m = np.ones_like(x)
    m[:, 1, 8:] = 0
    return Pick(model, ["input_ids", "attention_mask"]), {"input_ids": x, "attention_mask": m}, classes(n), {}


@case
def distilbert():
    t = hf()
    return encoder(t.DistilBertForSequenceClassification(t.DistilBertConfig(vocab_size=V, dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=32, num_labels=3)))


@case
def albert():
    t = hf()
    return encoder(t.AlbertForSequenceClassification(t.AlbertConfig(**TINY, embedding_size=8, num_labels=3)))


@case
def deberta():
    t = hf()
    c = t.DebertaV2Config(**TINY, relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], num_labels=3, pooler_hidden_size=16)
    return encoder(t.DebertaV2ForSequenceClassification(c))


@case
def t5():
    t = hf()
    c = t.T5Config(vocab_size=V, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, relative_attention_num_buckets=8, decoder_start_token_id=0, dropout_rate=0.0)
    x, y = ids(), ids(length=8)
    return Pick(t.T5ForConditionalGeneration(c), ["input_ids", "decoder_input_ids"], use_cache=False), {"input_ids": x, "decoder_input_ids": y}, np.roll(y, -1, 2), {}


@case
def bart():
    t = hf()
    c = t.BartConfig(vocab_size=V, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32, dropout=0.0)
    x, y = ids(), ids(length=8)
    return Pick(t.BartForConditionalGeneration(c), ["input_ids", "decoder_input_ids"], use_cache=False), {"input_ids": x, "decoder_input_ids": y}, np.roll(y, -1, 2), {}


@case
def whisper():
    t = hf()
    c = t.WhisperConfig(vocab_size=V, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=12, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, dropout=0.0)
    f = rng(4).standard_normal((STEPS, B, 8, 24)).astype(np.float32)
    y = ids(length=8)
    return Pick(t.WhisperForConditionalGeneration(c), ["input_features", "decoder_input_ids"], use_cache=False), {"input_features": f, "decoder_input_ids": y}, np.roll(y, -1, 2), {}


@case
def swin():
    t = hf()
    c = t.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=3, drop_path_rate=0.0)
    return Pick(t.SwinForImageClassification(c), ["pixel_values"]), {"pixel_values": images()}, classes(3), {}


@case
def convnext():
    t = hf()
    c = t.ConvNextConfig(patch_size=2, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3, drop_path_rate=0.0)
    return Pick(t.ConvNextForImageClassification(c), ["pixel_values"]), {"pixel_values": images()}, classes(3), {}


def vision(m, size=16, n=5, **kw):
    return m, {"x": images(size)}, classes(n), kw


@case
def densenet():
    from torchvision.models import DenseNet
    # frozen statistics: under batch statistics the gradient of norm0.weight is 4e-5, a thousandth of the others', what is left of
    # terms that cancel. In single precision PyTorch's own is off by 5.4e-4 there, zgraph's by 2.1e-4; the median tensor by 1.2e-6.
    return vision(DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=5), 32)


@case
def mobilenet_v2():
    from torchvision.models import MobileNetV2
    return vision(MobileNetV2(num_classes=5, width_mult=0.1, inverted_residual_setting=[[1, 8, 1, 1], [6, 16, 1, 2]], dropout=0.0), 32, mode="train")


@case
def efficientnet():
    from functools import partial
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig
    c = partial(MBConvConfig, width_mult=1.0, depth_mult=1.0)
    return vision(EfficientNet([c(1, 3, 1, 8, 8, 1), c(6, 5, 2, 8, 16, 1)], dropout=0.0, stochastic_depth_prob=0.0, num_classes=5, last_channel=32), 16, mode="train")


class Fire(nn.Module):
    def __init__(self, i, s, e):
        super().__init__()
        self.s, self.e1, self.e3 = nn.Conv2d(i, s, 1), nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.s(x))
        return torch.cat([F.relu(self.e1(x)), F.relu(self.e3(x))], 1)


@case
def squeezenet():
    return vision(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 8), Fire(16, 4, 8), nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 32)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.c = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 4, 3, padding=1)
        self.n = nn.GroupNorm(2, 8)

    def forward(self, x):
        a = F.silu(self.n(self.a(x)))
        return self.c(torch.cat([a, self.up(F.relu(self.b(a)))], 1))


@case
def unet():
    y = rng(5).integers(0, 4, (STEPS, B, 16, 16)).astype(np.int64)
    return UNet(), {"x": images()}, y, {"loss": {"channel_first": True}}


@case
def yolo_head():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.h = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(24, 2 * 7, 1)

        def forward(self, x):
            a = F.leaky_relu(self.a(x), 0.1)
            b = F.interpolate(F.leaky_relu(self.b(a), 0.1), scale_factor=2, mode="nearest")
            p = self.h(torch.cat([a, b], 1))
            n, _, h, w = p.shape
            p = p.view(n, 2, 7, h, w).permute(0, 1, 3, 4, 2)
            return torch.cat([torch.sigmoid(p[..., :2]) * 2, torch.exp(p[..., 2:4] * 0.1), torch.sigmoid(p[..., 4:])], -1)
    y = rng(6).standard_normal((STEPS, B, 2, 8, 8, 7)).astype(np.float32)
    return M(), {"x": images()}, y, {"loss": {"kind": "mse"}}


@case
def autoencoder():
    m = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ELU(), nn.Conv2d(8, 4, 3, 2, 1), nn.ELU(), nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), nn.ELU(), nn.ConvTranspose2d(8, 3, 3, 2, 1, 1), nn.Tanh())
    x = images()
    return m, {"x": x}, x, {"loss": {"kind": "mse"}}


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.e, self.r, self.o = nn.Embedding(V, 8), kind(8, 12, 1, batch_first=True, bidirectional=True), nn.Linear(24, V)

    def forward(self, x):
        return self.o(self.r(self.e(x))[0])


@case
def gru_net():
    x = ids()
    return Recurrent(nn.GRU), {"x": x}, np.roll(x, -1, 2), {"fixed": True}


@case
def lstm_net():
    x = ids()
    return Recurrent(nn.LSTM), {"x": x}, np.roll(x, -1, 2), {"fixed": True}


@case
def crnn():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.r, self.o = nn.Conv2d(1, 8, 3, (2, 1), 1), nn.LSTM(64, 12, batch_first=True), nn.Linear(12, 10)

        def forward(self, x):
            c = F.relu(self.c(x)).permute(0, 3, 1, 2).flatten(2)
            return F.log_softmax(self.o(self.r(c)[0]), -1)
    x = rng(7).standard_normal((STEPS, B, 1, 16, 10)).astype(np.float32)
    return M(), {"x": x}, rng(8).integers(0, 10, (STEPS, B, 10)).astype(np.int64), {"fixed": True}


@case
def mlp_mixer():
    class Mix(nn.Module):
        def __init__(self, n, d):
            super().__init__()
            self.a, self.b = nn.LayerNorm(d), nn.LayerNorm(d)
            self.t, self.c = nn.Sequential(nn.Linear(n, 8), nn.GELU(), nn.Linear(8, n)), nn.Sequential(nn.Linear(d, 16), nn.GELU(), nn.Linear(16, d))

        def forward(self, x):
            x = x + self.t(self.a(x).transpose(1, 2)).transpose(1, 2)
            return x + self.c(self.b(x))

    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.m, self.h = nn.Conv2d(3, 12, 4, 4), nn.Sequential(Mix(16, 12), Mix(16, 12)), nn.Linear(12, 5)

        def forward(self, x):
            return self.h(self.m(self.p(x).flatten(2).transpose(1, 2)).mean(1))
    return vision(M())


@case
def graph_net():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 5)

        def forward(self, x, src, dst):
            h = torch.relu(self.a(x))
            m = torch.zeros_like(h).index_add(0, dst, h[src])
            n = torch.zeros(h.shape[0]).index_add(0, dst, torch.ones(src.shape[0])).clamp(min=1)
            return self.b(h + m / n[:, None])
    g = rng(9)
    d = {"x": g.standard_normal((STEPS, 10, 6)).astype(np.float32), "src": g.integers(0, 10, (STEPS, 24)).astype(np.int64), "dst": g.integers(0, 10, (STEPS, 24)).astype(np.int64)}
    return M(), d, g.integers(0, 5, (STEPS, 10)).astype(np.int64), {"fixed": True}


@case
def audio_stft():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            k = torch.arange(16)[:, None] * torch.arange(9)[None] * (2 * np.pi / 16)
            w = torch.hann_window(16)[:, None]
            self.register_buffer("basis", torch.cat([(torch.cos(k) * w), (torch.sin(k) * w)], 1).T[:, None].float())
            self.c, self.o = nn.Conv1d(9, 8, 3, padding=1), nn.Linear(8, 4)

        def forward(self, x):
            s = F.conv1d(x[:, None], self.basis, stride=8)
            p = torch.log(s[:, :9] ** 2 + s[:, 9:] ** 2 + 1e-3)
            return self.o(F.relu(self.c(p)).amax(-1))
    return M(), {"x": rng(10).standard_normal((STEPS, B, 128)).astype(np.float32)}, classes(4), {"frozen": ["*basis*"]}


@case
def conv1d_tcn():
    m = nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 8, 3, dilation=2), nn.PReLU(), nn.InstanceNorm1d(8, affine=True), nn.ConstantPad1d((8, 0), 0.0), nn.Conv1d(8, 6, 3, dilation=4), nn.Hardswish(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(24, 4))
    return m, {"x": rng(11).standard_normal((STEPS, B, 3, 16)).astype(np.float32)}, classes(4), {}


@case
def shufflenet():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.g, self.d, self.o = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(16, 5)
            self.n = nn.BatchNorm2d(8)

        def forward(self, x):
            x = F.relu6(self.a(x))
            y = F.channel_shuffle(self.g(x), 2)
            return self.o(torch.cat([x, F.hardsigmoid(self.n(self.d(y)))], 1).mean((2, 3)))
    return vision(M(), mode="train")


@case
def transformer_torch():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.o = nn.Embedding(V, 16), nn.Linear(16, V)
            self.t = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True), 1, enable_nested_tensor=False)

        def forward(self, x):
            return self.o(self.t(self.e(x), mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1])))
    x = ids()
    return M(), {"x": x}, np.roll(x, -1, 2), {}


def write(out, name):
    torch.manual_seed(0)
    model, inputs, labels, kw = CASES[name]()
    model = model.eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    d = os.path.join(out, name)
    os.makedirs(d, exist_ok=True)
    args = tuple(torch.from_numpy(v[0]) for v in inputs.values())
    dyn = None
    if not kw.get("fixed"):
        dyn = tuple({0: torch.export.Dim("batch")} for _ in args)
        dyn = dyn if not isinstance(model, Pick) else (dyn,)
    opt = kw.get("optimize", name not in ("densenet", "mobilenet_v2", "efficientnet", "shufflenet"))
    path = os.path.join(d, "model.onnx")
    if name in LEGACY:   # what torch.export does not take yet
        torch.onnx.export(model, args, path, input_names=list(inputs), output_names=["logits"], dynamo=False, opset_version=17,
                          dynamic_axes={k: {0: "batch"} for k in [*inputs, "logits"]})
    else:
        torch.onnx.export(model, args, path, input_names=list(inputs), output_names=["logits"], dynamo=True, dynamic_shapes=dyn,
                          optimize=opt, external_data=False, verbose=False)
    np.savez(os.path.join(d, "data.npz"), labels=labels, **inputs)
    loss = {"kind": "cross_entropy", "logits": "logits", "labels": "labels", **kw.get("loss", {})}
    if loss["kind"] == "mse":
        loss = {"kind": "mse", "prediction": "logits", "labels": "labels"}
    c = {"name": name, "model": "model.onnx", "loss": loss, "steps": STEPS, "mode": kw.get("mode", "eval-graph"),
         "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}}
    if "frozen" in kw:
        c["frozen"] = kw["frozen"]
    yaml.safe_dump(c, open(os.path.join(d, "case.yaml"), "w"), sort_keys=False)


if __name__ == "__main__":
    for n in sys.argv[2:] or CASES:
        try:
            write(sys.argv[1], n)
            print("ok", n, os.path.getsize(os.path.join(sys.argv[1], n, "model.onnx")) // 1024, "kB", flush=True)
        except Exception as e:
            print("FAIL", n, type(e).__name__, str(e).strip().splitlines()[0][:200] if str(e).strip() else "", flush=True)
