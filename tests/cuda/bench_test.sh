#!/bin/sh
# usage: bench_test.sh ZGRAPH SOURCE_ROOT EMULATOR_DIR: bench/gpu/bench.py says so where there is no GPU, and runs at toy size in the
# emulator where this Python has PyTorch.
zg=$(realpath "$1"); cd "$2" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
python=${ZG_TEST_PYTHON:-python3}

if ! "$zg" devices | grep -q '^cuda .* sm_'; then
  "$python" bench/gpu/bench.py --zgraph "$zg" >"$tmp/none" 2>&1
  status=$?
  [ $status = 77 ] || { echo "FAIL: status $status without a GPU:"; cat "$tmp/none"; exit 1; }
  grep -q 'no GPU found: the bench needs' "$tmp/none" || { echo "FAIL: no message without a GPU:"; cat "$tmp/none"; exit 1; }
fi
"$python" -c 'import numpy, onnx, onnxscript, torch, torchvision, transformers, yaml' 2>/dev/null ||
  { echo "toy run skipped: $python has no torch, torchvision, transformers, onnx, onnxscript, yaml and numpy"; exit 0; }
ZG_CUDA_LIB_DIR=$3 "$python" bench/gpu/bench.py --toy --names gpt2_124m,resnet50 --zgraph "$zg" --skip-tests --steps 2 --peers eager \
  --folder "$tmp/models" --out "$tmp/table" >"$tmp/log" 2>&1 || { echo "FAIL: status $?:"; tail -5 "$tmp/log"; exit 1; }
for name in gpt2_124m resnet50; do
  grep -qE "^\| $name \| zgraph \| [0-9,.]+ \|" "$tmp/table" &&
    grep -qE "^\| $name \| PyTorch eager \| .*\| [0-9]e-0[2-9] \|$" "$tmp/table" && continue
  echo "FAIL: $name:"; cat "$tmp/table"; exit 1
done
cat "$tmp/table"
