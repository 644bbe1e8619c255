#!/bin/sh
# Every op that ONNX marks differentiable has a gradient in `zgraph ops`, and no line says that one is missing.
. "$(dirname "$0")/lib.sh"
"$zg" ops >"$tmp/ops" || fail "ops"
grep "missing" "$tmp/ops" && fail "an op lacks its gradient"
sed 's/[:#].*//' tests/conformance/differentiable.txt | while read -r op; do
  [ -n "$op" ] || continue
  grep -E "^$op +ai.onnx " "$tmp/ops" | grep -qvE " none " || echo "$op"
done >"$tmp/lacking"
[ -s "$tmp/lacking" ] && fail "no gradient: $(tr '\n' ' ' <"$tmp/lacking")"
exit $fails
