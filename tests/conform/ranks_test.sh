#!/bin/sh
# usage: ranks_test.sh ZGRAPH SOURCE_ROOT: processes with a CUDA device each, in the emulator, collectives by NCCL: 2 and 4 ranks in
# stages 0 to 3, with accumulation, and with tensors that rest in host memory or on disk, end with the loss that the CPU device has,
# within 1e-5. Segments are replayed as graphs from their second run on, and queued step by step where they cannot be recorded.
zg=$(realpath "$1"); cd "$2" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
fail=0
ZG_EMU_DEVICES=4; export ZG_EMU_DEVICES

run() {   # NAME DEVICE RANKS STAGE [KEY=VALUE...]: trains into $tmp/NAME
  name=$1; device=$2; ranks=$3; stage=$4; shift 4
  more=""; for set in "$@"; do more="$more --set $set"; done
  # shellcheck disable=SC2086
  "$zg" train --config configs/mlp.yaml --out "$tmp/$name" --set device="$device" --set distributed_type=DEEPSPEED \
    --set num_processes="$ranks" --set threads=1 --set zero.stage="$stage" --set zero.stage3_param_persistence_threshold=0 \
    --set training.steps=4 --set training.epochs=null --set training.log_every=1 --set data.eval.path=null --set data.train.batch_size=8 \
    --set training.keep=0 $more --quiet >"$tmp/$name.log" 2>&1 && return
  echo "FAIL: $name:"; tail -5 "$tmp/$name.log"; fail=$((fail + 1))
}
loss() { grep '"loss"' "$tmp/$1/metrics.jsonl" | tail -1 | sed 's/.*"loss": *\([-0-9.e]*\).*/\1/'; }
sent() { sed -n 's/.*"comm\/sent_bytes": *\([0-9.e+]*\).*/\1/p' "$tmp/$1/metrics.jsonl" | tail -1; }   # in the last step
near() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && b != "" && d <= 1e-5 * (a > 1 ? a : 1)) }'; }
alike() {   # CPU_RUN CUDA_RUN
  near "$(loss "$1")" "$(loss "$2")" && echo "$2: $(loss "$2")" && return
  echo "FAIL: $2: last loss $(loss "$2"), on the CPU $(loss "$1")"; fail=$((fail + 1))
}
says() {    # RUN TEXT
  grep -q "$2" "$tmp/$1.log" && return
  echo "FAIL: $1 does not say \"$2\""; fail=$((fail + 1))
}

for ranks in 2 4; do
  run cpu$ranks cpu $ranks 0
  for stage in 0 1 2 3; do
    run cuda$ranks-s$stage cuda $ranks $stage
    alike cpu$ranks cuda$ranks-s$stage
  done
done

run cpu2-k2 cpu 2 2 training.gradient_accumulation_steps=2
for stage in 2 3; do
  run cuda2-s$stage-k2 cuda 2 $stage training.gradient_accumulation_steps=2
  alike cpu2-k2 cuda2-s$stage-k2
  for where in cpu nvme; do
    [ $stage$where = 2nvme ] && continue   # parameters and states on disk: stage 3
    state="zero.offload_optimizer.device=$where zero.offload_optimizer.nvme_path=$tmp"
    param=""
    [ $stage = 3 ] && param="zero.offload_param.device=$where zero.offload_param.nvme_path=$tmp"
    # shellcheck disable=SC2086
    run cuda2-s$stage-$where cuda 2 $stage $state $param
    alike cpu2 cuda2-s$stage-$where
  done
done

ZG_LOG=1; export ZG_LOG
for capture in none plain; do
  ZG_EMU_CAPTURE=$capture run cuda2-$capture cuda 2 3
  alike cpu2 cuda2-$capture
  says cuda2-$capture 'is not replayed as a graph: '
done
run cuda2-graphs cuda 2 3
says cuda2-graphs 'segment "micro" is recorded as a graph'
says cuda2-graphs 'segment "update" is recorded as a graph'
# A replay communicates as much as the steps that it stands for.
[ -n "$(sent cuda2-none)" ] && [ "$(sent cuda2-graphs)" = "$(sent cuda2-none)" ] ||
  { echo "FAIL: replayed: $(sent cuda2-graphs) bytes sent, queued: $(sent cuda2-none)"; fail=$((fail + 1)); }

# Algorithms of products are timed once, then remembered; what is damaged is timed again.
cache=$ZG_CACHE_DIR; ZG_CACHE_DIR=$tmp/cache; ZG_CUDA_SEARCH=all; export ZG_CACHE_DIR ZG_CUDA_SEARCH
for found in timed remembered damaged; do
  [ $found = damaged ] && for file in "$tmp"/cache/cuda/gemm-*; do printf X | dd of="$file" bs=1 seek=40 conv=notrunc 2>/dev/null; done
  run cuda2-$found cuda 2 0
  alike cpu2 cuda2-$found
done
says cuda2-timed 'cuBLASLt: algorithms of [1-9][0-9]* products timed in .* of [0-9]* remembered'
says cuda2-remembered 'cuBLASLt: algorithms of 0 products timed in .* of [1-9][0-9]* remembered'
says cuda2-damaged 'cuBLASLt: algorithms of [1-9][0-9]* products timed in '
ZG_CACHE_DIR=$cache; unset ZG_CUDA_SEARCH

# A rank that is killed, or stands still, while collectives are queued: the other ends, and names the collective.
ends_with() {   # SIGNAL TEXT
  name=sig$1; log="$tmp/$name.log"
  ZG_CUDA_TIMEOUT=2 "$zg" train --config configs/mlp.yaml --out "$tmp/$name" --set device=cuda --set distributed_type=DEEPSPEED \
    --set num_processes=2 --set threads=1 --set zero.stage=3 --set zero.stage3_param_persistence_threshold=0 --set training.steps=100000 \
    --set training.epochs=null --set training.log_every=1 --set data.eval.path=null --set data.train.batch_size=8 --set training.keep=0 \
    --quiet >"$log" 2>&1 &
  launcher=$!
  i=0
  until grep -q '"step": *5[,}]' "$tmp/$name/metrics.jsonl" 2>/dev/null || [ $i -gt 600 ]; do sleep 0.1; i=$((i + 1)); done
  victim=$(pgrep -P $launcher | tail -1)
  kill -"$1" "$victim"
  wait $launcher && echo "FAIL: $name: ended well" && fail=$((fail + 1))
  kill -KILL "$victim" 2>/dev/null
  grep -qE "(all_gather|reduce_scatter|all_reduce) of \".*\" \(step [0-9]+\) on rank 0 of 2: .*$2" "$log" && return
  echo "FAIL: $name: no message with \"$2\":"; tail -3 "$log"; fail=$((fail + 1))
}
ends_with KILL 'rank 1 has ended'
ends_with STOP 'no end after 2 s'
exit $fail
