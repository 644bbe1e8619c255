#!/bin/sh
# Two machines, as network namespaces joined by a cable: training over TCP gives the bits of one machine, and machines that do not fit
# end with a message. Needs the right to make namespaces (root); skipped (77) without.
# Usage: machines.sh ZGRAPH MODEL DATA FOLDER
zgraph=$1 model=$2 data=$3 out=$4
a=zg$$a b=zg$$b
clean() { ip netns del $a; ip netns del $b; } 2>/dev/null
trap clean EXIT
command -v ip >/dev/null && ip netns add $a 2>/dev/null && ip netns add $b 2>/dev/null || { echo "no network namespaces here"; exit 77; }
ip link add v0 netns $a type veth peer name v0 netns $b || exit 77
for i in 1 2; do
  n=$a; [ $i = 2 ] && n=$b
  ip -n $n link set lo up && ip -n $n addr add 10.77.0.$i/24 dev v0 && ip -n $n link set v0 up || exit 77
done
rm -rf "$out"; mkdir -p "$out"

# train NAMESPACE LOG SETTING..: one machine's command
train() {
  ns=$1 log=$out/$2 sets=; shift 2
  set -- "$@" training.steps=20 threads=1 device=cpu data.train.path="$data" data.train.batch_size=8
  for s in "$@"; do sets="$sets --set $s"; done
  ip netns exec $ns timeout 60 "$zgraph" train "$model" $sets --set "loss={kind: cross_entropy, logits: probabilities, labels: labels, from_probs: true}" \
    --quiet >"$log" 2>&1
  echo $? >"$log.exit"
}
fail() { echo "FAIL: $*"; tail -n 20 "$out"/*.log "$out"/*.exit; exit 1; }
wants() { grep -q "$2" "$out/$1" || fail "$1 lacks \"$2\""; }
several="num_processes=4 num_machines=2 main_process_ip=10.77.0.1 main_process_port=29511"

for stage in 0 3; do
  train $a a.log $several machine_rank=0 zero.stage=$stage training.output_dir="$out/two" &
  train $b b.log $several machine_rank=1 zero.stage=$stage training.output_dir="$out/two"
  wait
  train $a one.log num_processes=4 zero.stage=$stage training.output_dir="$out/one"
  [ "$(cat "$out"/a.log.exit "$out"/b.log.exit "$out"/one.log.exit | tr -d '\n')" = 000 ] || fail "stage $stage"
  cmp "$out/one/model.onnx" "$out/two/model.onnx" || fail "stage $stage: two machines give other weights than one"
  rm -rf "$out/one" "$out/two"
done

begin=$(date +%s)
train $a a.log $several machine_rank=0 training.output_dir="$out/two" &
sleep 0.5
train $b b.log $several machine_rank=0 training.output_dir="$out/two"
wait
wants b.log "10.77.0.1 is not an address of this machine"
wants a.log "rank 0 was started twice (10.77.0.1 and 10.77.0.2): give each machine its own machine_rank"
train $a a.log $several machine_rank=0 training.seed=1 training.output_dir="$out/two" &
train $b b.log $several machine_rank=1 training.seed=2 training.output_dir="$out/two"
wait
wants a.log "rank 2 of 4 was started with another configuration than rank 0"
wants b.log "rank 2 of 4 was started with another configuration than rank 0"
train $a a.log $several machine_rank=0 training.output_dir="$out/two" &
train $b b.log $several machine_rank=1 num_processes=6 training.output_dir="$out/two"
wait
wants a.log "was started for 6 ranks, rank 0 for 4"
wants b.log "was started for 6 ranks, rank 0 for 4"
[ $(($(date +%s) - begin)) -lt 30 ] || fail "too slow: $(($(date +%s) - begin)) s"
