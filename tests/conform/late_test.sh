#!/bin/sh
# usage: late_test.sh ZGRAPH SOURCE_ROOT: a device that queues work gives an update's results when the next one has been queued. What a
# run writes down is what it writes on the CPU, which waits for each: the same rows in the same order, numbers within 1e-5, around
# evaluations, checkpoints, accumulation, a resumed run, Ctrl-C, a loss that is no number, and fp16, whose next scale depends on the norm.
zg=$(realpath "$1"); cd "$2" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
fail=0
bad() { echo "FAIL: $*"; fail=$((fail + 1)); }

options="--set training.epochs=null --set training.log_every=1 --set data.train.batch_size=8 --set data.eval.batches=2 --set data.eval.every=2"
train() {   # NAME DEVICE OPTION...: six steps into $tmp/NAME
  run=$1; on=$2; shift 2
  # shellcheck disable=SC2086
  "$zg" train --config configs/mlp.yaml --out "$tmp/$run" --set device="$on" $options --set training.steps=6 --quiet "$@" >"$tmp/$run.log" 2>&1
}
# A line per row: its step, and which numbers it has, with their values.
rows() { grep -E '"(loss|eval/loss)"' "$tmp/$1/metrics.jsonl" | tr '{},' '   ' | awk '{ line = ""
  for (i = 1; i <= NF; i++) if ($i ~ /^"(step|loss|lr|grad_norm|loss_scale|epoch|eval\/loss|eval\/accuracy)":/) { sub(/:/, " ", $i); line = line $i " " }
  print line }'; }
alike() {   # RUN RUN
  rows "$1" >"$tmp/a"; rows "$2" >"$tmp/b"
  [ "$(wc -l <"$tmp/a")" -ge 6 ] || bad "$1 has $(wc -l <"$tmp/a") rows"
  [ "$(wc -l <"$tmp/a")" = "$(wc -l <"$tmp/b")" ] && paste -d ' ' "$tmp/a" "$tmp/b" | awk '{ n = NF / 2
    for (i = 1; i <= n; i++) {
      a = $i; b = $(n + i); d = a - b; if (d < 0) d = -d
      if (a != b && !(a + 0 == a && b + 0 == b && d <= 1e-5 * (a > 1 ? a : 1))) exit 1
    } }' || bad "$1 and $2 write different rows: $(cat "$tmp/a" "$tmp/b")"
}
both() {    # NAME OPTION...
  name=$1; shift
  for device in cpu cuda; do train "$name.$device" $device "$@" || bad "$name on $device: $(tail -3 "$tmp/$name.$device.log")"; done
  alike "$name.cpu" "$name.cuda"
}
same() { cmp -s "$1" "$2" || bad "$1 and $2 differ"; }

both plain --set training.save_every=3
both noeval --set data.eval.path=null
both accumulated --set training.gradient_accumulation_steps=2
both half --set mixed_precision=fp16 --set fp16.initial_scale_power=40 --set fp16.hysteresis=1 --set fp16.min_loss_scale=1e-30 --set training.steps=8
rows half.cuda | grep -o 'loss_scale" [0-9.e+]*' | sort -u >"$tmp/scales"
[ "$(wc -l <"$tmp/scales")" -ge 3 ] || bad "the loss scale did not move: $(cat "$tmp/scales")"

# A checkpoint has what its update gave: a run that goes on from it is the one that was not stopped.
train resumed cuda --set training.save_every=3 --resume-from "$tmp/plain.cuda/step-00000003" || bad "resumed: $(tail -3 "$tmp/resumed.log")"
rows plain.cuda | awk '$2 > 3' >"$tmp/a"
rows resumed | awk '$2 > 3' | cmp -s - "$tmp/a" || bad "the resumed run writes other rows"
same "$tmp/resumed/model.onnx" "$tmp/plain.cuda/model.onnx"
for step in 3 6; do
  saved=$(sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p' "$tmp/plain.cuda/step-0000000$step/state.json")
  rows plain.cuda | awk -v step=$step -v saved="$saved" '$2 == step && $3 ~ /^"loss"/ { d = $4 - saved } END { exit !(saved > 0 && d < 1e-6 && d > -1e-6) }' ||
    bad "step $step is saved with the loss $saved"
done

# The update that made the loss no number is named, not the one behind it.
for device in cpu cuda; do
  train "wild.$device" $device --set optimizer.lr=1e30 --set data.eval.path=null && bad "lr 1e30 trains on $device"
done
said() { sed -n 's/.*\(step [0-9]*: the loss is\).*/\1/p' "$tmp/$1.log"; }
[ -n "$(said wild.cpu)" ] && [ "$(said wild.cpu)" = "$(said wild.cuda)" ] || bad "lr 1e30: \"$(said wild.cpu)\" on the CPU, \"$(said wild.cuda)\" here"

# Ctrl-C: the last row, the checkpoint and the message are of one step, and each step has its row.
# shellcheck disable=SC2086
"$zg" train --config configs/mlp.yaml --out "$tmp/stopped" --set device=cuda $options --set training.steps=1000000 --quiet >"$tmp/stopped.log" 2>&1 &
pid=$!
i=0
until grep -q '"step":5,' "$tmp/stopped/metrics.jsonl" 2>/dev/null || [ $i -gt 600 ]; do sleep 0.1; i=$((i + 1)); done
kill -INT $pid
wait $pid || bad "interrupted: exit status $?"
grep '"loss"' "$tmp/stopped/metrics.jsonl" | sed 's/.*"step": *\([0-9]*\),.*/\1/' >"$tmp/steps"
seq "$(tail -1 "$tmp/steps")" | cmp -s - "$tmp/steps" || bad "interrupted: not a row for each step"
[ -d "$tmp/stopped/step-$(printf %08d "$(tail -1 "$tmp/steps")")" ] || bad "interrupted: last row is of step $(tail -1 "$tmp/steps"), saved are $(ls "$tmp/stopped")"
grep -q "interrupted after step $(tail -1 "$tmp/steps")" "$tmp/stopped.log" || bad "interrupted: $(cat "$tmp/stopped.log")"
exit $fail
