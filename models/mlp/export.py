#!/usr/bin/env python3
"""Writes model.onnx: scikit-learn's MLPClassifier for 8x8 digits, after one pass over 200 of them.

usage: export.py [OUT.onnx]        needs scikit-learn, skl2onnx

scikit-learn gives a fitted classifier, not a network: the file ends in Softmax and ArgMax and has the class and the
probabilities as outputs, no logits. The configuration says `from_probs: true`.
"""
import os
import sys
import warnings

import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.onnx")
    warnings.filterwarnings("ignore")      # it has not converged, which is the point
    digits = load_digits()
    classifier = MLPClassifier((64, 32), max_iter=1, random_state=0).fit(digits.data[:200] / 16.0, digits.target[:200])
    model = to_onnx(classifier, initial_types=[("pixels", FloatTensorType([None, 64]))], options={"zipmap": False},
                    target_opset=18)
    onnx.save(model, out)


if __name__ == "__main__":
    main()
