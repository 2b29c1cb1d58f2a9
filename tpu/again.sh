#!/usr/bin/env bash
# Run a command, and rerun it as long as its exit code asks for it: 75, or 128 and above (killed by a signal).
#   [AGAIN=100] tpu/again.sh COMMAND ...
# Reruns at most $AGAIN times. SIGTERM is forwarded, and nothing is rerun after it.

set -uo pipefail
told="" now="" child=""
trap 'told=yes now=yes; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM

for ((left = ${AGAIN:-100}; ; left--)); do
  "$@" &
  child=$!
  while now="" && { wait "$child"; code=$?; } && [[ -n $now ]]; do :; done # the signal ends the wait, not the child
  child=""
  if [[ -n $told ]] || ((left <= 0)) || ((code != 75 && code < 128)); then
    exit "$code"
  fi
  echo "again.sh: exit code $code, starting again; $left times left" >&2
  sleep "${AGAIN_SECONDS:-10}" & # in the background, so that the trap runs immediately
  wait $!
  [[ -z $told ]] || exit 75
done
