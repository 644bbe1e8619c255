#!/bin/sh
# inspect: the table, the findings and their JSON; the remedies that it names are keys that work.
. "$(dirname "$0")/lib.sh"
model=tests/zoo/hf_gpt2_tiny/model.onnx
"$zg" inspect $model >"$tmp/text" 2>"$tmp/err" || fail "inspect: $(cat "$tmp/err")"
for word in "merged parameters" "broken tie" "renamed parameters" "remedy: ties: \[\[m.lm_head.weight, val_344\]\]" "and [0-9]* constants"; do
  grep -q "$word" "$tmp/text" || fail "inspect does not say \"$word\""
done
"$zg" inspect $model --all >"$tmp/all" 2>"$tmp/err" || fail "inspect --all"
grep -q " constant " "$tmp/all" || fail "--all lists no constants"
"$zg" inspect $model --json >"$tmp/json" 2>"$tmp/err" || fail "inspect --json"
python3 -c "
import json, sys
r = json.load(open(sys.argv[1]))
assert {t['decision'] for t in r['tensors']} <= {'trainable', 'frozen', 'running', 'tied', 'constant', 'unread'}
assert all(t['because'] for t in r['tensors'])
assert [f['what'] for f in r['findings'] if f['kind'] == 'broken tie'] == ['\"val_344\" is a transposed copy of \"m.lm_head.weight\"']
" "$tmp/json" || fail "--json"
"$zg" inspect $model --set untie=auto --set 'ties=[[m.lm_head.weight, val_344]]' >"$tmp/mended" 2>"$tmp/err" || fail "mended: $(cat "$tmp/err")"
grep -q "merged parameters\|broken tie" "$tmp/mended" && fail "the remedies do not help"
grep -q 'val_344 .* tied  *tied to "m.lm_head.weight", transposed' "$tmp/mended" || fail "the tied copy is not listed"
[ "$(grep -c "untied from" "$tmp/mended")" = 8 ] || fail "want 8 untied gains and biases"
exit $fails
