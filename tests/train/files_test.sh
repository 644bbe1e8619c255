#!/bin/sh
# usage: files_test.sh ZGRAPH SOURCE_ROOT: the files of other programs train as they are, with a second file for what they leave open.
#   files/accelerate   TRL's seven, with the keys and values it ships
#   files/deepspeed    as DeepSpeed's documentation shows them
# Six of TRL's say one thing, 8 ranks in bf16, in six ways: the trained models are the same bits.
zg=$(realpath "$1"); cd "$2" || exit 1
files=tests/train/files
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
fail=0
bad() { echo "FAIL: $*"; fail=$((fail + 1)); }

train() {   # NAME OPTION...: into $tmp/NAME
  name=$1; shift
  "$zg" train "$@" --out "$tmp/$name" --quiet >"$tmp/$name.log" 2>&1 || { bad "$name"; tail -3 "$tmp/$name.log"; return; }
  [ "$(grep -c '"loss":[0-9]' "$tmp/$name/metrics.jsonl")" = 4 ] || bad "$name: not 4 steps with a loss"
}

for f in single_gpu multi_gpu zero1 zero2 zero3 fsdp1 fsdp2; do
  train $f --config $files/accelerate/$f.yaml --config $files/own.yaml
done
for f in zero1 zero2 zero3 fsdp1 fsdp2; do
  cmp -s "$tmp/multi_gpu/model.onnx" "$tmp/$f/model.onnx" || bad "$f trained another model than multi_gpu"
done
cmp -s "$tmp/multi_gpu/model.onnx" "$tmp/single_gpu/model.onnx" && bad "one rank trained what eight ranks did"

# What `accelerate launch --no_python` puts into the environment says the same as its file.
told() {   # FILE VARIABLE..: the values that matter
  file=$1; shift
  env WORLD_SIZE=8 "$@" "$zg" config $files/own.yaml | grep -E "$keys" | sed 's/ *#.*//' >"$tmp/told"
  "$zg" config $files/accelerate/$file.yaml $files/own.yaml | grep -E "$keys" | sed 's/ *#.*//' | cmp -s - "$tmp/told" || bad "environment of $file"
  [ -s "$tmp/told" ] || bad "environment of $file: nothing"
}
keys='^(zero\.|num_processes|mixed_precision|distributed_type|training\.grad|memory\.recompute)'
told multi_gpu ACCELERATE_MIXED_PRECISION=bf16 ACCELERATE_DYNAMO_BACKEND=NO
told zero1 ACCELERATE_USE_DEEPSPEED=true ACCELERATE_MIXED_PRECISION=bf16 ACCELERATE_DEEPSPEED_ZERO_STAGE=1 ACCELERATE_GRADIENT_ACCUMULATION_STEPS=1 \
  ACCELERATE_DEEPSPEED_ZERO3_INIT=false
told zero3 ACCELERATE_USE_DEEPSPEED=true ACCELERATE_MIXED_PRECISION=bf16 ACCELERATE_DEEPSPEED_ZERO_STAGE=3 ACCELERATE_DEEPSPEED_ZERO3_INIT=true \
  ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL=true ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE=none ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE=none
told fsdp1 ACCELERATE_USE_FSDP=true ACCELERATE_MIXED_PRECISION=bf16 FSDP_VERSION=1 FSDP_RESHARD_AFTER_FORWARD=full_shard FSDP_SHARDING_STRATEGY=FULL_SHARD \
  FSDP_ACTIVATION_CHECKPOINTING=false FSDP_OFFLOAD_PARAMS=false FSDP_MIN_NUM_PARAMS=100000000 FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
told fsdp2 ACCELERATE_USE_FSDP=true ACCELERATE_MIXED_PRECISION=bf16 FSDP_VERSION=2 FSDP_RESHARD_AFTER_FORWARD=true FSDP_SHARDING_STRATEGY=FULL_SHARD \
  FSDP_ACTIVATION_CHECKPOINTING=false FSDP_OFFLOAD_PARAMS=false

n=0
for f in $files/deepspeed/*.json; do
  name=$(basename "$f" .json)
  case $name in
    *_auto_*) train "$name" --config "$f" --config $files/own_ranks.yaml --set data.train.batch_size=4 ;;
    *) train "$name" --config "$f" --config $files/own_ranks.yaml ;;
  esac
  n=$((n + 1))
done
[ $n -ge 12 ] || bad "only $n files of DeepSpeed"
exit $fail
