#!/usr/bin/env bash
# Follow a run to its end, on slices that come and go: create, launch, and both again when a spot slice was taken away.
#   tpu/watch.sh NAME --zone ZONE [the options of create.sh and launch.sh] [--dry-run] -- CONFIG [key=value ...]
# The exit code is that of training. Leaving this with Ctrl-C leaves the run alone; starting it again finds it.

words=("$@")
source "$(dirname "$0")/options.sh"

((${#TRAIN[@]})) || fail "nothing to train; give a configuration behind --, such as -- configs/debug.yaml"
here=$(dirname "$0")
state=("${QUEUED[@]}" describe "${WHERE[@]}" '--format=value(state.state)')
# Prints the exit code, or how far the run is; nothing where none was launched.
progress='cd jdistill 2>/dev/null && if [ -f exit ]; then echo "exit $(cat exit)"; else tail -n 1 log; fi || true'
look=("${QUEUED[@]}" ssh "${WHERE[@]}" --node=0 --worker=0 "--command=$progress")

if [[ -n $DRY_RUN ]]; then
  run "${state[@]}"
  "$here/create.sh" "${words[@]}"
  "$here/launch.sh" "${words[@]}"
  run "${look[@]}"
  "$here/delete.sh" "${words[@]}"
  exit
fi

while true; do
  now=$("${state[@]}" 2>/dev/null || echo NONE)
  case $now in
    NONE) "$here/create.sh" "${words[@]}" ;;
    SUSPENDED | FAILED) "$here/delete.sh" "${words[@]}" ;; # created again when it is gone
    ACTIVE)
      now=$("${look[@]}" 2>/dev/null || echo "cannot be reached")
      case $now in
        "") "$here/launch.sh" "${words[@]}" ;;
        "exit "*) echo "$NAME: $now" && exit "${now#exit }" ;;
      esac
      ;;
  esac
  echo "$(date +%T) $NAME: $now"
  sleep "${WATCH_SECONDS:-60}"
done
