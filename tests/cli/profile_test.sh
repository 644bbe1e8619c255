#!/bin/sh
# What devices --measure prints is a device for plan; train --profile accounts for the time of a run.
. "$(dirname "$0")/lib.sh"
"$zg" devices --measure >"$tmp/here.yaml" 2>"$tmp/err" || fail "devices --measure: $(cat "$tmp/err")"
for key in flops_f32 flops_16 bytes_per_s launch_s memory; do
  awk -v k="$key:" '$1 == k && $2 + 0 > 0 { found = 1 } END { exit !found }' "$tmp/here.yaml" || fail "devices --measure gives no $key"
done
"$zg" plan --config configs/cnn.yaml --device "$tmp/here.yaml" >"$tmp/plan" 2>"$tmp/err" || fail "plan --device: $(cat "$tmp/err")"
grep -q "predicted time  *on cpu" "$tmp/plan" || fail "plan does not take the device's name: $(cat "$tmp/plan")"
# Kinds and nodes each add up to all kernels, which are no more than the whole; percentages too.
cat >"$tmp/adds_up.awk" <<'EOF'
  function close_to(a, b) { return a - b < 0.02 * b + 0.02 && b - a < 0.02 * b + 0.02 }
  /^kind /          { table = "kind"; next }
  /^node /          { table = "node"; next }
  /^all kernels/    { all = $3; share = $4; next }
  /^waiting /       { wait = $3; table = ""; next }
  /^outside them/   { rest = $4; table = ""; next }
  /more nodes/      { nodes += $NF; table = ""; next }
  /^$/              { if (table == "node") table = "" }
  table == "kind"   { kinds += $(NF - 5) }
  table == "node"   { nodes += $(NF - 5); shown += $(NF - 5); parts += $(NF - 4) + $(NF - 3) + $(NF - 2) }
  /^bytes of a step/ { moved = $7; for (i = 1; i <= NF; i++) if ($i == "ratio") ratio = $(i + 1) }
  END {
    if (!(all > 0)) { print "no time at all"; exit 1 }
    if (!close_to(kinds, all)) { print "kinds " kinds " of " all; bad = 1 }
    if (!close_to(nodes, all)) { print "nodes " nodes " of " all; bad = 1 }
    if (!close_to(parts, shown)) { print "forward, backward and update " parts " of " shown; bad = 1 }
    if (share + wait + rest > 100.3 || share + wait + rest < 99.7 || rest < 0) { print "shares " share ", " wait " and " rest; bad = 1 }
    if ((ranks > 1) != (wait > 0)) { print ranks " ranks wait " wait; bad = 1 }
    if (!(moved > 0) || ratio < 1) { print "moved " moved " ratio " ratio; bad = 1 }
    exit bad
  }
EOF
profile() {   # RANKS OPTION...
  ranks=$1; shift
  "$zg" train --set training.steps=5 --set lr_scheduler.warmup_steps=0 --quiet --profile --out "$tmp/out" "$@" >"$tmp/log" 2>"$tmp/err" ||
    fail "train --profile: $(cat "$tmp/err")"
  awk -v ranks="$ranks" -f "$tmp/adds_up.awk" "$tmp/log" >"$tmp/why" || fail "profile of $ranks does not add up: $(cat "$tmp/why" "$tmp/log")"
}
profile 1 --config configs/cnn.yaml
grep -q "^steps 2 to 5$" "$tmp/log" || fail "not steps 2 to 5: $(cat "$tmp/log")"
count() { sed -n 's/.* us for \([0-9]*\) schedule steps/\1/p' "$tmp/log"; }
five=$(count)
profile 1 --config configs/cnn.yaml --set training.steps=1   # there is no other
grep -q "^steps 1 to 1$" "$tmp/log" || fail "not the only step: $(cat "$tmp/log")"
[ "$five" = "$(count)" ] || fail "a step has $(count) schedule steps alone, $five of five"
profile 2 --config configs/gpt.yaml --set data.train.batch_size=1 --set data.eval.path= --set num_processes=2 --set threads=1 --set zero.stage=3 \
  --set zero.stage3_param_persistence_threshold=0
exit $fails
