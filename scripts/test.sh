#!/bin/sh
# Sets up, builds in build-test/, runs every test. The last line reads `N passed, N failed, N skipped`; the exit status is that
# of the tests.
# usage: scripts/test.sh [--sanitize]        --sanitize: the same in build-asan/ with address and undefined-behaviour sanitizers
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

dir=build-test
options=""
if [ "${1:-}" = --sanitize ]; then
  dir=build-asan
  options="-Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized"
fi

scripts/setup.sh
# shellcheck disable=SC2086
[ -f "$dir/build.ninja" ] || meson setup $options "$dir"
ninja -C "$dir"

# The zoo is compared with onnxruntime. Without it those tests are skipped, and say so.
venv="$root/$dir/venv"
if ! "$venv/bin/python" -c 'import numpy, yaml, onnxruntime' 2>/dev/null; then
  python3 -m venv "$venv" && "$venv/bin/python" -m pip install -q numpy pyyaml onnxruntime ||
    echo "test.sh: cannot install numpy, pyyaml and onnxruntime into $venv: the zoo is skipped"
fi
# ONNX's own backend tests: the data of one release of the onnx package, newer ones no longer carry them.
if [ ! -d "$dir/onnx-data/onnx/backend/test/data/node" ]; then
  mkdir -p "$dir/onnx-data"
  { python3 -m pip download -q --no-deps --only-binary :all: -d "$dir/onnx-data" onnx==1.22.0 &&
    python3 -m zipfile -e "$dir"/onnx-data/onnx-1.22.0-*.whl "$dir/onnx-data"; } ||
    echo "test.sh: cannot fetch the onnx package: its backend tests (suite conformance) are skipped"
fi
export ZG_TEST_PYTHON="$venv/bin/python"
# intercept_tls_get_addr=0: the leak checker reads what it interposes there of OpenMP's threads after they are gone, and crashes
# (gcc 12). handle_segv=0: the emulator's own tests provoke faults on purpose.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:intercept_tls_get_addr=0:handle_segv=0:abort_on_error=0}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"

meson test -C "$dir" --no-rebuild --num-processes 2 --timeout-multiplier 4 --print-errorlogs || true
exec python3 scripts/count_tests.py "$dir/meson-logs/testlog.json"
