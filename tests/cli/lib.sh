# Shared by the command-line tests. Sets zg (the binary), root (the source tree), tmp (an empty folder that goes at the end).
set -u
zg=$(realpath "$1")
root=$2
cd "$root" || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fails=0
fail() { echo "FAIL: $*" >&2; fails=$((fails + 1)); }
# refuses STATUS TEXT ARGS...: zgraph ARGS ends with that status and says TEXT.
refuses() {
  want=$1 text=$2
  shift 2
  "$zg" "$@" >"$tmp/out" 2>"$tmp/err"
  got=$?
  [ "$got" = "$want" ] || fail "zgraph $*: exit status $got, want $want: $(tail -c 300 "$tmp/err")"
  grep -qF -- "$text" "$tmp/err" || fail "zgraph $*: does not say \"$text\" but: $(tail -c 300 "$tmp/err")"
}
same() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; }
losses() { sed -n 's/.*"loss": *\([^,]*\),.*/\1/p' "$1"; }
