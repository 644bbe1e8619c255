#!/bin/sh
# Print, parse, print is the identity on every graph and schedule of the zoo, after every pass; the verifiers accept them.
. "$(dirname "$0")/lib.sh"
n=0
for case in tests/zoo/*/case.yaml; do
  folder=$(dirname "$case")
  logits=$(sed -n 's/^  logits: //p' "$case")
  for pass in import opt_simplify lower_autodiff attach_optimizer opt_simplify_core plan_memory; do
    "$zg" dump "$folder/model.onnx" --mode train --set "loss.logits=$logits" --stop-after $pass >"$tmp/a" 2>"$tmp/err" ||
      { fail "$folder: dump --stop-after $pass: $(cat "$tmp/err")"; continue; }
    "$zg" verify "$tmp/a" --print >"$tmp/b" 2>"$tmp/err" || fail "$folder, after $pass: verify: $(cat "$tmp/err")"
    [ $pass = plan_memory ] || for t in a b; do   # origins of nodes are comments, which parsing drops
      sed 's/ *; .*//' "$tmp/$t" >"$tmp/c" && mv "$tmp/c" "$tmp/$t"
    done
    cmp -s "$tmp/a" "$tmp/b" || fail "$folder, after $pass: print, parse, print differ: $(diff "$tmp/a" "$tmp/b" | head -4)"
    n=$((n + 1))
  done
done
[ $n -ge 90 ] || fail "only $n texts compared"
exit $fails
