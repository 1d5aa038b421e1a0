#!/usr/bin/env bash
# One task of pretrain.sbatch, which starts one per GPU: task.sh EXIT_CODE_DIR COMMAND [ARGUMENT...]
#
# Gives COMMAND the rank variables torch reads, passes USR1 and TERM on to it, and writes its exit code to
# EXIT_CODE_DIR/RANK. Exit code 3 (stopped by a signal, everything is saved) becomes 0 for srun: otherwise
# --kill-on-bad-exit would end the ranks that are a moment behind, and hide the 3 behind their 137.
set -uo pipefail

exit_codes=$1
shift

export RANK=${SLURM_PROCID:?} WORLD_SIZE=${SLURM_NTASKS:?} LOCAL_RANK=${SLURM_LOCALID:?}
# "8(x2)" or "8,4" -> 8
export LOCAL_WORLD_SIZE=${SLURM_STEP_TASKS_PER_NODE%%[(,]*}
# Compiled kernels on the node's own disk: thousands of ranks on a shared one break it.
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

# Killed by the signal, usually before it could install a handler: the newest checkpoint stands, start again.
case "$signal:$code" in USR1:138 | TERM:143) code=3 ;; esac
echo "$code" >"$exit_codes/$RANK"
[ "$code" -eq 3 ] && exit 0
exit "$code"
