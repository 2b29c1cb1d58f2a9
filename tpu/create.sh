#!/usr/bin/env bash
# Request TPU slices as a queued resource, which waits until capacity is available.
#   tpu/create.sh NAME --zone ZONE [--type TYPE] [--slices N] [--spot] [--dry-run]

source "$(dirname "$0")/options.sh"

flags=("--accelerator-type=$TYPE" "--runtime-version=${RUNTIME:-$(runtime_of "$TYPE")}")
if ((SLICES > 1)); then
  flags+=("--node-count=$SLICES" "--node-prefix=$NAME")
else
  flags+=("--node-id=$NAME")
fi
[[ -z $SPOT ]] || flags+=(--spot)
run "${QUEUED[@]}" create "${WHERE[@]}" "${flags[@]}"
