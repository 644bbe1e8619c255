#!/bin/sh
# Every verb has help with an example; dump shows every pass and its text parses; plan equals what train allocates.
. "$(dirname "$0")/lib.sh"
for verb in $("$zg" --help | sed -n 's/^  \([a-z-]*\)  .*/\1/p'); do
  "$zg" "$verb" --help >"$tmp/help" 2>&1 || fail "$verb --help"
  grep -q "^example:" "$tmp/help" || fail "$verb --help shows no example"
done
for pass in $("$zg" dump --passes); do
  "$zg" dump models/cnn/model.onnx --config configs/cnn.yaml --stop-after "$pass" >"$tmp/dump" 2>"$tmp/err" || fail "dump --stop-after $pass: $(cat "$tmp/err")"
  grep -qE "^(graph|schedule) " "$tmp/dump" || fail "dump --stop-after $pass prints no IR"
done
"$zg" plan --config configs/cnn.yaml --json >"$tmp/plan" 2>"$tmp/err" || fail "plan: $(cat "$tmp/err")"
planned=$(sed -n 's/^{"planned_bytes": \([0-9]*\).*/\1/p' "$tmp/plan")
"$zg" train --config configs/cnn.yaml --set training.steps=2 --set lr_scheduler.warmup_steps=0 --quiet --out "$tmp/out" >"$tmp/log" 2>&1 || fail "train: $(cat "$tmp/log")"
allocated=$(sed -n 's/.*"memory\/allocated_bytes": *\([0-9.e+]*\).*/\1/p' "$tmp/out/metrics.jsonl")
[ -n "$planned" ] && [ "${allocated%.*}" = "$planned" ] || fail "planned $planned bytes, allocated $allocated"
"$zg" check-grad models/cnn/model.onnx --config configs/cnn.yaml --set data.train.batch_size=2 --samples 2 >"$tmp/log" 2>&1 || fail "check-grad: $(tail -3 "$tmp/log")"
exit $fails
