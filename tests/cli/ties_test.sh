#!/bin/sh
# untie and ties: one parameter a norm, one for embedding and head, in training, in the trained model and in `zgraph export`.
. "$(dirname "$0")/lib.sh"
model=tests/onnx/fixtures/merged.onnx
set -- --set data.train.format=random --set data.train.batch_size=2 --set 'loss={kind: graph_output}' --set training.steps=2 \
  --set optimizer.type=sgd --set optimizer.lr=0.1 --quiet
"$zg" train $model "$@" --set untie=auto --set 'ties=[[emb, head]]' --out "$tmp/mended" >"$tmp/log" 2>&1 || fail "train: $(tail -3 "$tmp/log")"
"$zg" inspect "$tmp/mended/model.onnx" >"$tmp/list" 2>&1 || fail "inspect: $(tail -3 "$tmp/list")"
for name in ones ln2.weight ones@ln3 zeros zeros@bias1 zeros@ln2 zeros@ln3 emb head; do
  grep -qE "^  $name +.* trainable " "$tmp/list" || fail "the trained model has no parameter $name"
done
"$zg" export "$tmp/mended" -o "$tmp/exported.onnx" >"$tmp/log" 2>&1 || fail "export: $(tail -3 "$tmp/log")"
same "$tmp/mended/model.onnx" "$tmp/exported.onnx"

# Tied again, the trained file trains as before: its two copies are still equal, transposed.
"$zg" train "$tmp/mended/model.onnx" "$@" --set 'ties=[[emb, head]]' --out "$tmp/again" >"$tmp/log" 2>&1 || fail "again: $(tail -3 "$tmp/log")"
grep -q "different values" "$tmp/log" && fail "the tied tensors have drifted apart"
"$zg" train $model "$@" --out "$tmp/split" >"$tmp/log" 2>&1 || fail "train as it is: $(tail -3 "$tmp/log")"
"$zg" train "$tmp/split/model.onnx" "$@" --set 'ties=[[emb, head]]' --out "$tmp/late" >"$tmp/log" 2>&1 || fail "late: $(tail -3 "$tmp/log")"
grep -q "different values" "$tmp/log" || fail "copies that have drifted apart are tied without a word"
refuses 2 'did you mean "head"' train $model "$@" --set 'ties=[[emb, haed]]' --out "$tmp/x"
exit $fails
