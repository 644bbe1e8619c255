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
refuses 2 "net_bytes_per_s must be above zero" plan --config configs/gpt.yaml --device "$tmp/bad.yaml"
exit $fails
