#!/usr/bin/env bash
# On every worker: install, mount, and train in the background; launch.sh calls this.
#   worker.sh HOST:PATH|- CONFIG [key=value ...]
# In the checkout: log, pid, and in `exit` the last exit code once nothing is to be started again.

set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $1 != - ]] && ! mountpoint --quiet /mnt/jdistill; then
  sudo apt-get install --yes --quiet nfs-common
  sudo mkdir -p /mnt/jdistill
  sudo mount -t nfs "$1" /mnt/jdistill
  sudo chmod 1777 /mnt/jdistill
fi
shift

# The images of TPU VMs have an older Python than jdistill needs.
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python --constraint constraints.txt '.[tpu]'

rm -f exit
nohup setsid bash -c 'tpu/again.sh .venv/bin/jdistill train "$@"; echo $? >exit' bash "$@" >log 2>&1 </dev/null &
echo $! >pid
