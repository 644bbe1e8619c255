#!/bin/sh
# Bad input: each a message that names the thing, exit status 2 (input) or 1 (the system), nothing half-written.
. "$(dirname "$0")/lib.sh"
model=models/mlp/model.onnx
data=models/data/digits_train.npz

refuses 2 "did you mean \"train\"? \`zgraph" trian
refuses 2 'no verb is called "xyzzyx". `zgraph --help` lists them.' xyzzyx
refuses 2 "did you mean --config" train "$model" --confg x.yaml
refuses 2 "needs a value" train "$model" --config
refuses 2 "nowhere.onnx" run nowhere.onnx --inputs "$data" --out "$tmp/o.npz"
refuses 2 "nowhere.yaml" train "$model" --config nowhere.yaml
refuses 2 "no training data" train --set training.steps=1
refuses 2 "no model" train --set training.steps=1 --set data.train.path=$data

printf 'optimizer: {type: adamw, lrr: 1}\n' >"$tmp/bad.yaml"
refuses 2 "bad.yaml:1:" train "$model" --config "$tmp/bad.yaml"
refuses 2 "lr" train "$model" --config "$tmp/bad.yaml"
printf 'training: {steps: many}\n' >"$tmp/bad.yaml"
refuses 2 "bad.yaml:1:" train "$model" --config "$tmp/bad.yaml"
printf 'a: [1, 2\n' >"$tmp/bad.yaml"
refuses 2 "bad.yaml:" train "$model" --config "$tmp/bad.yaml"
refuses 2 "stop-after" dump "$model" --stop-aftr lower
refuses 2 "no pass is called" dump "$model" --stop-after opt_simplfy

# Models: truncated, random, of the wrong kind.
size=$(wc -c <"$model")
for at in 0 1 17 $((size / 2)) $((size - 1)); do
  head -c "$at" "$model" >"$tmp/cut.onnx"
  "$zg" inspect "$tmp/cut.onnx" >"$tmp/out" 2>"$tmp/err"
  [ $? = 2 ] || [ $? = 1 ] || fail "a model cut at $at: exit status $?"
  grep -q "cut.onnx" "$tmp/err" || fail "a model cut at $at: $(cat "$tmp/err")"
done
head -c 5000 /dev/urandom >"$tmp/random.onnx"
"$zg" inspect "$tmp/random.onnx" >/dev/null 2>"$tmp/err"
code=$?
[ $code = 1 ] || [ $code = 2 ] || fail "random bytes: exit status $code"
grep -q "random.onnx" "$tmp/err" || fail "random bytes: $(cat "$tmp/err")"

# Data: absent, of the wrong shape, without labels; a loss on an output that is not there.
base="--set loss.from_probs=true --set training.steps=1 --out $tmp/x"
# shellcheck disable=SC2086
refuses 2 "data.train.path" train "$model" $base --set loss.logits=probabilities
# shellcheck disable=SC2086
refuses 2 "nodata.npz" train "$model" $base --set loss.logits=probabilities --set data.train.path=nodata.npz
# shellcheck disable=SC2086
refuses 2 "probabilties" train "$model" $base --set loss.logits=probabilties --set data.train.path=$data --set data.train.batch_size=8
# shellcheck disable=SC2086
refuses 2 "labels" train "$model" $base --set loss.logits=probabilities --set loss.labels=lables --set data.train.path=$data --set data.train.batch_size=8
refuses 2 "input" run models/cnn/model.onnx --inputs tests/zoo/hf_gpt2_tiny/data.npz --out "$tmp/o.npz"
[ ! -e "$tmp/o.npz" ] || fail "a refused run left an output file"

# The system: a folder that cannot be made, a disk that is full.
: >"$tmp/file"
refuses 1 "$tmp/file" train --config configs/mlp.yaml --out "$tmp/file/out"
mkdir "$tmp/small"
if mount -t tmpfs -o size=40k tmpfs "$tmp/small" 2>/dev/null; then
  "$zg" train --config configs/cnn.yaml --set training.steps=2 --set lr_scheduler.warmup_steps=0 --quiet --out "$tmp/small/out" >"$tmp/log" 2>&1
  code=$?
  [ $code = 1 ] || fail "a full disk: exit status $code: $(cat "$tmp/log")"
  grep -q "No space left" "$tmp/log" || fail "a full disk: $(cat "$tmp/log")"
  [ ! -e "$tmp/small/out/model.onnx" ] || fail "a full disk: a model was left"
  ls -d "$tmp"/small/out/step-* >/dev/null 2>&1 && fail "a full disk: a checkpoint was left"
  umount "$tmp/small"
fi
exit $fails
