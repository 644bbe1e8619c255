#!/bin/sh
# A budget that cannot be met: the message gives the smallest budget and what would fit, and both are true.
. "$(dirname "$0")/lib.sh"
plan() { "$zg" plan --config configs/gpt.yaml --set data.train.batch_size=8 --set data.eval.path= "$@" >"$tmp/out" 2>"$tmp/err"; }
plan --set memory.budget=18MiB && fail "a budget of 18 MiB was met"
least=$(sed -n 's/.*recomputed [0-9.]* MiB (\([0-9]*\) bytes): that is the smallest.*/\1/p' "$tmp/err")
[ -n "$least" ] || fail "no smallest budget in: $(cat "$tmp/err")"
plan --set memory.budget="$least" || fail "the smallest budget is refused: $(cat "$tmp/err")"
plan --set memory.budget=$((least - 64)) && fail "64 bytes less than the smallest budget were enough"
plan --set memory.budget=18MiB
advice=$(sed -n 's/^  batch size \([0-9]*\) with training.gradient_accumulation_steps \([0-9]*\): .*/\1 \2/p' "$tmp/err")
[ -n "$advice" ] || fail "no batch size in: $(cat "$tmp/err")"
plan --set memory.budget=18MiB --set data.train.batch_size="${advice% *}" --set training.gradient_accumulation_steps="${advice#* }" ||
  fail "batch size and accumulation $advice do not fit: $(cat "$tmp/err")"
plan --set memory.budget=18MiB --ranks 2 --stage 0 && fail "a budget of 18 MiB was met by 2 ranks"
grep -qE "^  (zero.stage [123] over 2 ranks|[0-9]+ ranks in zero.stage 3|zero.offload)|Not enough by themselves" "$tmp/err" || fail "nothing of ranks in: $(cat "$tmp/err")"
# Plans on trial repeat no warnings, those of 16384 samples a batch over 1024 ranks least of all.
"$zg" plan --config configs/gpt.yaml --set dims.nowhere=3 --set memory.budget=8MiB >"$tmp/out" 2>"$tmp/err" && fail "a budget of 8 MiB was met"
[ "$(grep -c 'warning' "$tmp/err")" = 1 ] || fail "not one warning: $(cat "$tmp/err")"
exit $fails
