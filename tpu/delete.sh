#!/usr/bin/env bash
# Delete the slices, even if they are in use. Data on the shared disk is kept.
#   tpu/delete.sh NAME --zone ZONE [--dry-run]

source "$(dirname "$0")/options.sh"

run "${QUEUED[@]}" delete "${WHERE[@]}" --force --quiet
