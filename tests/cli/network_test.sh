#!/bin/sh
# Two levels of a network: ranks that fill one node talk fast, those of two nodes at the rate between nodes.
. "$(dirname "$0")/lib.sh"
printf 'memory: 1e11\nflops_f32: 1e15\nflops_16: 1e15\nbytes_per_s: 1e15\ncomm_bytes_per_s: 1e9\ncopy_bytes_per_s: 1e9\nlaunch_s: 0\ncomm_latency_s: 0\n' >"$tmp/one.yaml"
{ cat "$tmp/one.yaml"; printf 'node_ranks: 4\nnet_bytes_per_s: 1e7\nnet_latency_s: 0\n'; } >"$tmp/two.yaml"
{ cat "$tmp/one.yaml"; printf 'node_ranks: 4\n'; } >"$tmp/bad.yaml"
predicted() { "$zg" plan --config configs/gpt.yaml --set data.eval.path= --ranks "$2" --stage 2 --device "$tmp/$1.yaml" 2>/dev/null | grep "^predicted time" | sed 's/.*yaml://'; }
[ -n "$(predicted one 4)" ] || fail "no predicted time"
[ "$(predicted one 4)" = "$(predicted two 4)" ] || fail "4 ranks of one node: $(predicted one 4) without, $(predicted two 4) with nodes"
[ "$(predicted one 8)" != "$(predicted two 8)" ] || fail "8 ranks of two nodes are as fast as in one: $(predicted two 8)"
# Several numbers of ranks in one table: each line is what that number alone gives, also across nodes.
table() { "$zg" plan --config configs/gpt.yaml --set data.eval.path= --stage 2 --device "$tmp/two.yaml" --ranks "$1" --json 2>/dev/null; }
[ "$(table 1..6,16 | sed 's/.*"ranks": \([0-9]*\).*/\1/' | tr '\n' ' ')" = "1 2 4 6 16 " ] || fail "--ranks 1..6,16: $(table 1..6,16)"
alone=$("$zg" plan --config configs/gpt.yaml --set data.eval.path= --stage 2 --ranks 8 --json 2>/dev/null | sed -n 's/.*"planned_bytes": \([0-9]*\).*/\1/p')
table 4,8 | grep -q "\"ranks\": 8,.*\"planned_bytes\": $alone," || fail "8 ranks of --ranks 4,8 need other bytes than --ranks 8: $alone"
exposed() { table 4,8 | sed -n "$1s/.*\"exposed_seconds\": \([0-9.e+-]*\)}/\1/p"; }
awk "BEGIN { exit !($(exposed 2) > 10 * $(exposed 1)) }" || fail "the way between nodes costs nothing: $(exposed 1), $(exposed 2)"
for bad in 1,x 8..2 1, ,4 0,2 1..9999999 2..; do refuses 2 "want numbers from 1" plan --config configs/gpt.yaml --ranks "$bad"; done
refuses 2 "want one number of ranks" plan --config configs/gpt.yaml --ranks 1,2 --compare
refuses 2 "net_bytes_per_s must be above zero" plan --config configs/gpt.yaml --device "$tmp/bad.yaml"
exit $fails
