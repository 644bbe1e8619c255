#!/bin/sh
# usage: processes_test.sh ZGRAPH SOURCE_ROOT: real processes, started by the configuration's num_processes, give the same trained
# model in every stage, offloaded or not, bit by bit; a run stopped in one stage goes on in another with other ranks.
zg=$(realpath "$1"); cd "$2" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
fail=0

run() {   # NAME RANKS STAGE [--set ...]: trains into $tmp/NAME
  name=$1 ranks=$2 stage=$3; shift 3
  "$zg" train --config configs/mlp.yaml --out "$tmp/$name" --set distributed_type=DEEPSPEED --set num_processes="$ranks" --set threads=1 \
    --set zero.stage="$stage" --set zero.stage3_param_persistence_threshold=0 --set training.steps=8 --set training.epochs=null \
    --set data.eval.path=null --set data.train.batch_size=8 --set training.keep=0 --quiet "$@" >"$tmp/$name.log" 2>&1 && return
  echo "FAIL: $name:"; tail -3 "$tmp/$name.log"; fail=$((fail + 1))
}
same() { cmp -s "$tmp/$1/model.onnx" "$tmp/$2/model.onnx" && return; echo "FAIL: $1 and $2 are different models"; fail=$((fail + 1)); }

for ranks in 2 4; do
  for stage in 0 1 2 3; do
    run "n$ranks-s$stage" $ranks $stage
    [ $stage = 0 ] || same "n$ranks-s$stage" "n$ranks-s0"
  done
done
run offload 2 3 --set zero.offload_optimizer.device=cpu --set zero.offload_param.device=cpu
same offload n2-s0
run plain 2 3 --set zero.overlap_comm=false
same plain n2-s0

# Second shards in groups change nothing; shards in groups sum in another order.
run hpz 4 3 --set zero.zero_hpz_partition_size=2
same hpz n4-s0
run mics 4 3 --set zero.mics_shard_size=2 --set training.save_every=4
run micsagain 4 3 --set zero.mics_shard_size=2 --resume-from "$tmp/mics/step-00000004"
same micsagain mics
cmp -s "$tmp/mics/model.onnx" "$tmp/n4-s0/model.onnx" && { echo "FAIL: groups of 2 summed like 4 ranks"; fail=$((fail + 1)); }

# Stopped after step 4 on two ranks in stage 3, resumed on four in stage 1, and on four in stage 2: the same.
run half 2 3 --set training.save_every=4
for stage in 1 2; do run "resumed$stage" 4 $stage --resume-from "$tmp/half/step-00000004"; done
same resumed1 resumed2
exit $fail
