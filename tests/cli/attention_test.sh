#!/bin/sh
# An opset-23 Attention with grouped heads, causal flag and softcap, and one with a mask: outputs equal those of onnx's reference
# implementation (stored in batch.npz), gradients pass check-grad.
. "$(dirname "$0")/lib.sh"
model=tests/cli/attention/model.onnx
batch=tests/cli/attention/batch.npz
# The mean square distance to the stored outputs is the loss.
cat >"$tmp/same.yaml" <<'END'
loss:
  - {kind: mse, prediction: a, labels: want_a}
  - {kind: mse, prediction: b, labels: want_b}
trainable: ["*"]
END
sed 's/want_/y/' "$tmp/same.yaml" >"$tmp/far.yaml"
loss() {   # the f32 in the one stored member loss.npy, as od prints it
  "$zg" grad "$model" --config "$1" --inputs "$batch" --out "$tmp/g.npz" >"$tmp/log" 2>&1 || fail "grad: $(cat "$tmp/log")"
  at=$(grep -abo "NUMPY" "$tmp/g.npz" | head -1 | cut -d: -f1)
  od -An -tfF -j $((at - 1 + 128)) -N4 "$tmp/g.npz" | tr -d ' '
}
far=$(loss "$tmp/far.yaml")
same=$(loss "$tmp/same.yaml")
awk -v a="$same" -v b="$far" 'BEGIN { exit !(b > 1e-3 && a >= 0 && a < 1e-11) }' || fail "distance to the stored outputs: $same (to zero: $far)"
"$zg" check-grad "$model" --config "$tmp/far.yaml" --inputs "$batch" --samples 4 >"$tmp/log" 2>&1 || fail "check-grad: $(cat "$tmp/log")"
[ "$(grep -c '^w[qkv]' "$tmp/log")" = 3 ] || fail "check-grad lists: $(cat "$tmp/log")"
exit $fails
