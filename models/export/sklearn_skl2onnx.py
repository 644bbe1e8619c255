#!/usr/bin/env python3
"""scikit-learn through skl2onnx: an MLPClassifier behind a StandardScaler.

usage: sklearn_skl2onnx.py OUT        needs scikit-learn, skl2onnx

zipmap=False makes the probabilities a tensor; the loss reads them with from_probs. The scaler is one op with
attributes: its mean and deviation are statistics of the data and stay as they are fitted.
"""
import os
import warnings

import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common import blobs, out_dir, write_task


def main():
    out = out_dir()
    warnings.filterwarnings("ignore")      # one iteration has not converged: zgraph trains on
    x, y = blobs()
    fitted = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=1, random_state=0)).fit(x, y)
    onnx.save(to_onnx(fitted, initial_types=[("x", FloatTensorType([None, 8]))], options={"zipmap": False}, target_opset=18),
              os.path.join(out, "model.onnx"))
    write_task(out, {"x": x}, y, "{kind: cross_entropy, logits: probabilities, labels: labels, from_probs: true}")


if __name__ == "__main__":
    main()
