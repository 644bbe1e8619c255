#!/bin/sh
# Installs the Debian packages that building and testing need. Does nothing where all of them are there.
set -eu

packages="meson ninja-build gcc pkg-config protobuf-c-compiler libprotobuf-c-dev libyaml-dev libjson-c-dev check zlib1g-dev
libdnnl-dev python3 python3-venv"

missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || { echo "setup.sh: no apt-get here; install what matches:$missing" >&2; exit 1; }
sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup.sh: not root and no sudo; as root: apt-get install$missing" >&2; exit 1; }
  sudo=sudo
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q
# shellcheck disable=SC2086
$sudo apt-get install -q -y --no-install-recommends $missing
