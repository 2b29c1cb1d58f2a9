#!/usr/bin/env bash
# On every worker: install, mount, and train in the background; launch.sh calls this.
#   worker.sh HOST:PATH|- CONFIG [key=value ...]
# Writes to the checkout: log, pid, and `exit`, the final exit code once nothing is rerun anymore.

set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $1 != - ]] && ! mountpoint --quiet /mnt/jdistill; then
  sudo apt-get install --yes --quiet nfs-common
  sudo mkdir -p /mnt/jdistill
  sudo mount -t nfs "$1" /mnt/jdistill
  sudo chmod 1777 /mnt/jdistill
fi
shift

# The Python of TPU VM images is too old for jdistill.
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python --constraint constraints.txt '.[tpu]'

rm -f exit
nohup setsid bash -c 'tpu/retry.sh .venv/bin/jdistill train "$@"; echo $? >exit' bash "$@" >log 2>&1 </dev/null &
echo $! >pid
