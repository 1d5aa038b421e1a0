#!/usr/bin/env bash
# One task of pretrain.sbatch, which starts one per GPU: task.sh EXIT_CODE_DIR COMMAND [ARGUMENT...]
#
# Sets the rank variables that torch reads, forwards USR1 and TERM to COMMAND, and writes its exit code to
# EXIT_CODE_DIR/RANK. Exit code 3 (stopped, everything saved) becomes 0 for srun: otherwise --kill-on-bad-exit
# would end the ranks that are a moment behind, and their 137 would hide the 3.
set -uo pipefail

exit_codes=$1
shift

export RANK=${SLURM_PROCID:?} WORLD_SIZE=${SLURM_NTASKS:?} LOCAL_RANK=${SLURM_LOCALID:?}
# "8(x2)" or "8,4" -> 8
export LOCAL_WORLD_SIZE=${SLURM_STEP_TASKS_PER_NODE%%[(,]*}
# Compiled kernels go to the node's own disk: thousands of ranks would overload a shared one.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton-$UID-$(uname -n)}

child=
signal=
# shellcheck disable=SC2329 # called by the traps
forward() {
  signal=$1
  interrupted=1
  if [ -n "$child" ] && [ "${FORWARD_SIGNALS:-1}" = 1 ]; then kill -s "$signal" "$child" 2>/dev/null; fi
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM

"$@" &
child=$!
if [ -n "$signal" ]; then kill -s "$signal" "$child" 2>/dev/null; fi
interrupted=1
while [ -n "$interrupted" ]; do # a trapped signal ends `wait` early
  interrupted=
  wait "$child"
  code=$?
done

# Killed by the signal, usually before it could install a handler: start again from the newest checkpoint.
case "$signal:$code" in USR1:138 | TERM:143) code=3 ;; esac
echo "$code" >"$exit_codes/$RANK"
[ "$code" -eq 3 ] && exit 0
exit "$code"
