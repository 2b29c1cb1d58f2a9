# shellcheck shell=bash disable=SC2034 # the scripts that source this use the variables
# Shared command line of the scripts, so that watch.sh can pass its options on. Sourced, not run.
set -euo pipefail

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  cat <<'TEXT'
options:
  --zone ZONE      zone of the slice                                          [$ZONE]
  --type TYPE      accelerator: v5litepod-16, v5p-8, v6e-16, ...              [v5litepod-16]
  --slices N       number of slices of that type                              [1]
  --runtime NAME   TPU VM image                                               [that of the type]
  --nfs HOST:PATH  shared disk, mounted as /mnt/jdistill on every worker; required for slices with several hosts
  --spot           use spot capacity: cheaper, but preemptible
  --dry-run        print the commands instead of running them
  -- WORDS         arguments of `jdistill train`: CONFIG key=value ...
TEXT
}

fail() {
  echo "error: $(basename "$0"): $1" >&2
  exit 2
}

run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

NAME="" ZONE=${ZONE:-} TYPE=v5litepod-16 SLICES=1 RUNTIME="" NFS="" SPOT="" DRY_RUN="" TRAIN=()
while (($#)); do
  case $1 in
    --zone | --type | --slices | --runtime | --nfs)
      (($# > 1)) || fail "$1 needs a value"
      declare "$(tr '[:lower:]' '[:upper:]' <<<"${1#--}")=$2"
      shift
      ;;
    --spot) SPOT=yes ;;
    --dry-run) DRY_RUN=yes ;;
    -h | --help) usage && exit ;;
    --) shift && TRAIN=("$@") && break ;;
    -*) fail "unknown option $1; --help lists them" ;;
    *) [[ -z $NAME ]] || fail "two names, $NAME and $1; put the arguments of training after --" && NAME=$1 ;;
  esac
  shift
done
[[ -n $NAME ]] || { usage >&2 && exit 2; }
[[ -n $ZONE ]] || fail "no zone; pass --zone, such as us-central1-a"
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "--slices: is '$SLICES', expected a positive integer"
QUEUED=(gcloud compute tpus queued-resources)
WHERE=("$NAME" "--zone=$ZONE")
EVERY=("--zone=$ZONE" --node=all --worker=all)
