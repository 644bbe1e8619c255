#!/usr/bin/env python3
"""Writes digits_train.npz and digits_eval.npz: scikit-learn's 1797 handwritten digits, 8x8 grey values in 0..1.

usage: make_digits.py [FOLDER]

Arrays, one row per sample: `images` f32[1,8,8] for convolutions, `pixels` f32[64] for multi-layer perceptrons (the same
values), `labels` i64[]. A fixed random fifth is kept for evaluation.
"""
import os
import sys

import numpy as np
from sklearn.datasets import load_digits


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    digits = load_digits()
    pixels, labels = (digits.data / 16.0).astype(np.float32), digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    cut = len(labels) // 5
    for name, rows in (("eval", order[:cut]), ("train", order[cut:])):
        np.savez_compressed(os.path.join(folder, "digits_%s.npz" % name), images=pixels[rows].reshape(-1, 1, 8, 8),
                            pixels=pixels[rows], labels=labels[rows])


if __name__ == "__main__":
    main()
