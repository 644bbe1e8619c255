#!/bin/sh
# 20 updates, and 10 + resume + 10, give the same losses and parameters to the bit; a run killed at random moments resumes to
# the same end; so does one stopped by Ctrl-C.
. "$(dirname "$0")/lib.sh"
run() { "$zg" train "$root/models/cnn/model.onnx" --config "$root/configs/cnn.yaml" --quiet "$@" >"$tmp/log" 2>&1; }
steps="--set lr_scheduler.warmup_steps=2"

# shellcheck disable=SC2086
run $steps --set lr_scheduler.total_steps=20 --set training.steps=20 --out "$tmp/whole" || fail "whole run: $(cat "$tmp/log")"
# shellcheck disable=SC2086
run $steps --set lr_scheduler.total_steps=20 --set training.steps=10 --out "$tmp/halves" || fail "first half: $(cat "$tmp/log")"
# shellcheck disable=SC2086
run $steps --set lr_scheduler.total_steps=20 --set training.steps=20 --out "$tmp/halves" --resume || fail "second half: $(cat "$tmp/log")"
losses "$tmp/whole/metrics.jsonl" >"$tmp/a"
losses "$tmp/halves/metrics.jsonl" >"$tmp/b"
[ "$(wc -l <"$tmp/a")" -ge 20 ] || fail "only $(wc -l <"$tmp/a") losses"
same "$tmp/a" "$tmp/b"
same "$tmp/whole/model.onnx" "$tmp/halves/model.onnx"
same "$tmp/whole/step-00000020/optimizer.safetensors" "$tmp/halves/step-00000020/optimizer.safetensors"

# Killed again and again while it saves after every update.
n=0
while [ $n -lt 12 ]; do
  n=$((n + 1))
  # shellcheck disable=SC2086
  timeout -s KILL "0.$(((n * 37) % 40 + 10))" "$zg" train "$root/models/cnn/model.onnx" --config "$root/configs/cnn.yaml" --quiet $steps \
    --set lr_scheduler.total_steps=20 --set training.steps=20 --set training.save_every=1 --out "$tmp/killed" --resume >"$tmp/log" 2>&1
done
# shellcheck disable=SC2086
run $steps --set lr_scheduler.total_steps=20 --set training.steps=20 --out "$tmp/killed" --resume || fail "after kills: $(cat "$tmp/log")"
same "$tmp/whole/model.onnx" "$tmp/killed/model.onnx"

# Ctrl-C: exit status 0, a checkpoint, and a resumed run that ends alike.
# shellcheck disable=SC2086
"$zg" train "$root/models/cnn/model.onnx" --config "$root/configs/cnn.yaml" --quiet $steps --set training.steps=100000 \
  --set lr_scheduler.warmup_steps=0 --out "$tmp/stopped" >"$tmp/log" 2>&1 &
pid=$!
sleep 1
kill -INT $pid
wait $pid || fail "interrupted run: exit status $?"
grep -q interrupted "$tmp/log" || fail "interrupted run says: $(cat "$tmp/log")"
ls -d "$tmp"/stopped/step-* >/dev/null 2>&1 || fail "interrupted run left no checkpoint"
[ ! -e "$tmp/stopped/model.onnx" ] || fail "interrupted run wrote a model"

"$zg" export "$tmp/whole" -o "$tmp/exported.onnx" >"$tmp/log" 2>&1 || fail "export: $(cat "$tmp/log")"
same "$tmp/exported.onnx" "$tmp/whole/model.onnx"
exit $fails
