#!/usr/bin/env bash
# Whether this node can train: health.sh ANSWER_DIR. pretrain.sbatch runs it on every node before it starts a run.
#
# Writes "ok", or what is wrong, to ANSWER_DIR/NODE. What is checked comes from the environment, as explained in
# pretrain.sbatch: HEALTH_GPUS, HEALTH_MEMORY_GB, HEALTH_DISK_GB, HEALTH_COMMAND.
set -uo pipefail

node=${SLURMD_NODENAME:-$(uname -n)}
wrong=()

if [ "${HEALTH_GPUS:-0}" -gt 0 ]; then
  if ! rows=$(nvidia-smi --query-gpu=ecc.errors.uncorrected.volatile.total,memory.used --format=csv,noheader,nounits 2>&1); then
    wrong+=("nvidia-smi fails: ${rows//$'\n'/ }")
  else
    count=$(grep -c . <<<"$rows")
    [ "$count" -ge "$HEALTH_GPUS" ] || wrong+=("$count GPUs instead of $HEALTH_GPUS")
    index=0
    while IFS=', ' read -r ecc used; do
      # Cards without ECC answer [N/A].
      if [[ $ecc =~ ^[0-9]+$ ]] && [ "$ecc" -gt 0 ]; then wrong+=("GPU $index has $ecc uncorrected memory errors"); fi
      if [[ $used =~ ^[0-9]+$ ]] && [ "$used" -gt 2000 ]; then wrong+=("GPU $index is in use: $used MiB"); fi
      index=$((index + 1))
    done <<<"$rows"
  fi
fi

if [ "${HEALTH_MEMORY_GB:-0}" -gt 0 ]; then
  kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
  gb=$((kib * 1024 / 1000000000))
  [ "$gb" -ge "$HEALTH_MEMORY_GB" ] || wrong+=("$gb GB of memory are free instead of $HEALTH_MEMORY_GB")
fi

if [ "${HEALTH_DISK_GB:-0}" -gt 0 ]; then
  # Compiled kernels and, with checkpoint.local, checkpoints go there.
  place=${TMPDIR:-/tmp}
  kib=$(df --output=avail -k "$place" 2>/dev/null | tail -n 1)
  gb=$((${kib:-0} * 1024 / 1000000000))
  [ "$gb" -ge "$HEALTH_DISK_GB" ] || wrong+=("$gb GB of $place are free instead of $HEALTH_DISK_GB")
fi

if [ -n "${HEALTH_COMMAND:-}" ]; then
  if ! said=$(timeout "${HEALTH_TIMEOUT:-300}" bash -c "$HEALTH_COMMAND" 2>&1); then
    wrong+=("$HEALTH_COMMAND fails: $(tail -n 1 <<<"$said")")
  fi
fi

answer=ok
if [ "${#wrong[@]}" -gt 0 ]; then
  answer=$(printf '%s; ' "${wrong[@]}")
  answer=${answer%; }
fi
echo "$answer" >"$1/$node.partial" && mv "$1/$node.partial" "$1/$node"
