#!/bin/sh
# A loss in chunks beside other things: evaluation with accuracy, bf16 products, recomputation, accumulation, ranks in stage 3. Losses
# agree with those of the whole loss, step by step; the same run twice, and one with recomputation, are bit-equal.
. "$(dirname "$0")/lib.sh"
# run NAME SETTING...: three steps; what metrics.jsonl tells goes to $tmp/NAME.
run() {
  name=$1
  shift
  "$zg" train --config configs/gpt.yaml --quiet --set data.train.batch_size=2 --set training.steps=3 --set training.log_every=1 --set lr_scheduler.warmup_steps=1 \
    --set data.eval.batch_size=4 --set data.eval.batches=2 --set data.eval.every=3 --out "$tmp/out-$name" "$@" >"$tmp/log" 2>&1 || fail "$name: $(tail -3 "$tmp/log")"
  tr ',{' '\n\n' <"$tmp/out-$name/metrics.jsonl" | grep -E '"(loss|grad_norm|eval/loss|eval/accuracy)"' | sed "s,.*:,," >"$tmp/$name"
}
# near A B BOUND: relative distance, number by number.
near() {
  paste "$tmp/$1" "$tmp/$2" | awk -v bound="$3" '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= bound * $1)) exit 1 } END { if (NR < 8) exit 1 }' ||
    fail "$1: $(tr '\n' ' ' <"$tmp/$1"); $2: $(tr '\n' ' ' <"$tmp/$2")"
}
off="--set memory.loss_chunk=off" on="--set memory.loss_chunk=100"
# shellcheck disable=SC2086
{
  run whole $off
  run chunks $on
  run again $on
  run less $on --set memory.recompute=full
  near whole chunks 2e-6
  same "$tmp/chunks" "$tmp/again"
  same "$tmp/chunks" "$tmp/less"
  run whole16 $off --set mixed_precision=bf16
  run chunks16 $on --set mixed_precision=bf16
  near whole16 chunks16 2e-4
  run whole3 $off --set num_processes=2 --set zero.stage=3 --set zero.stage3_param_persistence_threshold=0 --set training.gradient_accumulation_steps=2
  run chunks3 $on --set num_processes=2 --set zero.stage=3 --set zero.stage3_param_persistence_threshold=0 --set training.gradient_accumulation_steps=2
  near whole3 chunks3 2e-6
}
"$zg" dump --config configs/gpt.yaml --mode train $on --stop-after opt_loss_chunk >"$tmp/graph" 2>&1
[ "$(grep -c ' = linear_cross_entropy ' "$tmp/graph")" = 2 ] || fail "of the training and the evaluation graph, not both are in chunks"
exit $fails
