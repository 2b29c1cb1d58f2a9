#!/usr/bin/env bash
# Run a command, and rerun it as long as its exit code asks for it: 75, or 128 and above (killed by a signal).
#   [RETRIES=100] tpu/retry.sh COMMAND ...
# Reruns at most $RETRIES times. SIGTERM is forwarded, and nothing is rerun after it.

set -uo pipefail
asked="" now="" child=""
trap 'asked=yes now=yes; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM

for ((left = ${RETRIES:-100}; ; left--)); do
  "$@" &
  child=$!
  while now="" && { wait "$child"; code=$?; } && [[ -n $now ]]; do :; done # the signal ends the wait, not the child
  child=""
  if [[ -n $asked ]] || ((left <= 0)) || ((code != 75 && code < 128)); then
    exit "$code"
  fi
  echo "retry.sh: exit code $code, rerunning; $left reruns left" >&2
  sleep "${RETRY_SECONDS:-10}" & # in the background, so that the trap runs immediately
  wait $!
  [[ -z $asked ]] || exit 75
done
