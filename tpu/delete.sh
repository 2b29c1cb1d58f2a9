#!/usr/bin/env bash
# Give the slices back, whatever they are doing. What lies on the shared disk stays.
#   tpu/delete.sh NAME --zone ZONE [--dry-run]

source "$(dirname "$0")/options.sh"

run "${QUEUED[@]}" delete "${WHERE[@]}" --force --quiet
