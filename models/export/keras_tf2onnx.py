#!/usr/bin/env python3
"""Keras through tf2onnx: a dense net that ends in logits.

usage: keras_tf2onnx.py OUT        needs tensorflow, tf2onnx

Biases start at small random numbers: tf2onnx leaves out the addition of one that is all zero. Converted through a tf.function, since
tf2onnx's from_keras does not know Keras 3. Outputs get the function's names.
"""
import os

import tensorflow as tf
import tf2onnx

from common import blobs, out_dir, write_task


def main():
    out = out_dir()
    tf.random.set_seed(0)
    bias = tf.keras.initializers.RandomNormal(stddev=0.01)
    model = tf.keras.Sequential([tf.keras.Input((8,)), tf.keras.layers.Dense(32, activation="gelu", bias_initializer=bias),
                                 tf.keras.layers.LayerNormalization(beta_initializer=bias),
                                 tf.keras.layers.Dense(4, bias_initializer=bias)])
    call = tf.function(lambda x: {"logits": model(x, training=True)}, input_signature=[tf.TensorSpec((None, 8), tf.float32, name="x")])
    tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=17, output_path=os.path.join(out, "model.onnx"))
    x, y = blobs()
    write_task(out, {"x": x}, y, "{kind: cross_entropy, logits: logits, labels: labels}")


if __name__ == "__main__":
    main()
