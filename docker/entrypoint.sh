#!/usr/bin/env bash
# Runs a job of Param Recipes: docker run --rm --gpus all -v "$PWD:/workspace" IMAGE JOB [ARGUMENT...]
#
#   pretrain SETTING=VALUE...          trains: pretrain experiment=quickstart data_dir=data
#   nemo_inference MODEL PROMPT...     completes prompts, as nemo_inference.sh does
#   generate SETTING=VALUE...          the same with all settings of recipes.generate
#   evaluate SETTING=VALUE...          scores: evaluate gpt_model_file=model.nemo eval=param1_table mirror=DIR
#   serve MODEL [SETTING=VALUE...]     answers at port 5555; -e RECIPES_SERVER_TOKEN=... -p 5555:5555 lets others ask
#   convert SRC DST --to FORMAT        between .nemo and Hugging Face
#   quickstart                         from text to a trained, scored model, into ./outputs
#   shell                              bash; with -it
#   python, torchrun, bash, sh         as they are: torchrun --nproc-per-node 8 -m recipes.pretrain ...
#
# JOB --help explains each. The present directory is /workspace: mount there what is read and written.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "error: $*" >&2
  exit 2
}

tools() { # the names of all tools, which are jobs too
  local file name
  for file in "$project"/tools/*.py; do
    name=$(basename "$file" .py)
    [ "$name" = __init__ ] || echo "$name"
  done
}

# ---- A place for what libraries keep between starts: downloads, and kernels that they compile and then load.
why_not() { # DIR: what makes it useless, or nothing
  local probe
  if ! mkdir -p "$1" 2>/dev/null || ! probe=$(mktemp "$1/.probe.XXXXXX" 2>/dev/null); then
    echo "cannot be written"
    return
  fi
  # Docker mounts --tmpfs without exec unless told otherwise; the loader then refuses a compiled kernel.
  printf '#!/bin/sh\n' 2>/dev/null >"$probe" || echo "is full"
  chmod 700 "$probe"
  "$probe" 2>/dev/null || echo "is mounted noexec"
  rm -f "$probe"
}

choose_cache() { # sets `cache`, or `problem`
  local place why wrong=
  local places=("${XDG_CACHE_HOME:-}")
  [ -n "${places[0]}" ] || places=("${HOME:-/nonexistent}/.cache" "${TMPDIR:-/tmp}/cache-$UID")
  cache=
  for place in "${places[@]}"; do
    why=$(why_not "$place")
    if [ -z "$why" ]; then
      cache=$place
      return
    fi
    wrong="${wrong:+$wrong, }$place ${why%%$'\n'*}"
  done
  problem="no place for caches: $wrong; add --tmpfs /tmp:exec, or mount a directory and name it in XDG_CACHE_HOME"
}

set_caches() {
  export XDG_CACHE_HOME=$cache
  export HF_HOME=${HF_HOME:-$cache/huggingface}
  export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/torchinductor}
  export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
  export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$cache/nv}
  export MPLCONFIGDIR=${MPLCONFIGDIR:-$cache/matplotlib}
  [ -w "${HOME:-/nonexistent}" ] || export HOME=$cache
  if [ -n "$(why_not "${TMPDIR:-/tmp}")" ]; then
    export TMPDIR=$cache/tmp
    mkdir -p "$TMPDIR"
  fi
  # A user without a name (docker run --user 1234) makes torch fail where it asks for one.
  id -un >/dev/null 2>&1 || export USER=${USER:-uid-$UID} LOGNAME=${LOGNAME:-uid-$UID}
}

job=${1:-help}
[ $# -eq 0 ] || shift
case $job in
  help | --help | -h)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    printf '\nAll tools are jobs too:\n'
    tools | tr '\n' ' ' | fold -s -w 110 | sed 's/^/  /; s/ *$//'
    echo
    exit 0
    ;;
esac

# -P: what lies in the present directory is not imported.
case $job in
  pretrain | generate | evaluate) command=(python -P -m "recipes.$job" "$@") ;;
  nemo_inference | nemo_inference.sh) command=("$project/nemo_inference.sh" "$@") ;;
  serve)
    [ $# -gt 0 ] || fail "serve: which model? for example: serve outputs/quickstart/model.nemo"
    [ "$1" = --help ] || set -- "$@" server=true
    case " $* " in
      *" serving.host="*) ;;
      *)
        if [ -n "${RECIPES_SERVER_TOKEN:-}" ]; then
          set -- "$@" serving.host=0.0.0.0
        else
          echo "without RECIPES_SERVER_TOKEN only this container can ask (with --network host, this machine)" >&2
        fi
        ;;
    esac
    command=("$project/nemo_inference.sh" "$@")
    ;;
  quickstart)
    case " $* " in *" --output-dir"* | *" --help "*) ;; *) set -- --output-dir outputs "$@" ;; esac
    command=(python -P -m tools.quickstart "$@")
    ;;
  shell) command=(bash "$@") ;;
  python | python3 | torchrun | bash | sh) command=("$job" "$@") ;;
  *)
    if [[ $job =~ ^[a-z_]+$ && $job != __* && -f $project/tools/$job.py ]]; then
      command=(python -P -m "tools.$job" "$@")
    elif [[ $job == /* && -x $job && ! -d $job ]]; then
      command=("$job" "$@")
    else
      fail "$job: there is no such job; without arguments, this image lists what it can run"
    fi
    ;;
esac

choose_cache
if [ -n "$cache" ]; then
  set_caches
elif [ "$job" = shell ]; then
  echo "warning: $problem" >&2
else
  fail "$problem"
fi
# The environment that this script belongs to, for nemo_inference.sh, which would look for one beside itself.
export PYTHON=${PYTHON:-python}
exec "${command[@]}"
