#!/bin/sh
# usage: ranks_test.sh ZGRAPH SOURCE_ROOT: processes with a CUDA device each, in the emulator, collectives by NCCL: 2 and 4 ranks in
# stages 0 to 3 end with the loss that the CPU device has, within 1e-5.
zg=$(realpath "$1"); cd "$2" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
fail=0
ZG_EMU_DEVICES=4; export ZG_EMU_DEVICES

run() {   # NAME DEVICE RANKS STAGE: trains into $tmp/NAME
  "$zg" train --config configs/mlp.yaml --out "$tmp/$1" --set device="$2" --set distributed_type=DEEPSPEED --set num_processes="$3" \
    --set threads=1 --set zero.stage="$4" --set zero.stage3_param_persistence_threshold=0 --set training.steps=4 \
    --set training.epochs=null --set training.log_every=1 --set data.eval.path=null --set data.train.batch_size=8 --set training.keep=0 \
    --quiet >"$tmp/$1.log" 2>&1 && return
  echo "FAIL: $1:"; tail -5 "$tmp/$1.log"; fail=$((fail + 1))
}
loss() { grep '"loss"' "$tmp/$1/metrics.jsonl" | tail -1 | sed 's/.*"loss": *\([-0-9.e]*\).*/\1/'; }
near() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && b != "" && d <= 1e-5 * (a > 1 ? a : 1)) }'; }

for ranks in 2 4; do
  run "cpu$ranks" cpu $ranks 0
  for stage in 0 1 2 3; do
    name=cuda$ranks-s$stage
    run $name cuda $ranks $stage
    near "$(loss cpu$ranks)" "$(loss $name)" && echo "$name: $(loss $name)" && continue
    echo "FAIL: $name: last loss $(loss $name), on the CPU $(loss cpu$ranks)"; fail=$((fail + 1))
  done
done
exit $fail
