#!/usr/bin/env bash
# A throwaway Slurm cluster: cluster.sh NODES DIRECTORY COMMAND [ARGUMENT...]
#
# Each node has its own network, host name and process ids on a private bridge; nothing listens on the machine's own
# interfaces. When COMMAND ends, the kernel ends all the rest. Needs root, and Debian's slurm-wlm and munge.
# Exit code 75: the cluster did not start; otherwise COMMAND's.
# `kill -9 $(cat DIRECTORY/pids/nodeI)` is a power failure of a node.
set -euo pipefail
if [ "${_CLUSTER:-}" != 1 ]; then
  export _CLUSTER=1
  exec unshare --net --mount --uts --ipc --pid --fork --mount-proc --kill-child -- "$0" "$@"
fi
nodes=$1 root=$2
shift 2
started=
# The name of a Unix socket has at most 107 bytes, and a test's directory alone may have 90.
sockets=$(mktemp -d /tmp/slurm.XXXXXX)
trap 'rm -rf "$sockets"; [ -n "$started" ] || exit 75' EXIT
export SLURM_CONF=$root/slurm.conf
mkdir -p "$root"/{munge,state,log,pids,small}
# A disk that a test can fill; all nodes share it.
mount -t tmpfs -o size=24m small "$root/small"

hostname control
{
  echo "127.0.0.1 localhost"
  echo "10.99.0.254 control"
  for ((i = 0; i < nodes; i++)); do echo "10.99.0.$((i + 1)) node$i"; done
} >"$root/hosts"
mount --bind "$root/hosts" /etc/hosts
ip link set lo up
ip link add br0 type bridge
ip addr add 10.99.0.254/24 dev br0
ip link set br0 up

head -c 128 /dev/urandom >"$root/munge/munge.key"
chmod 400 "$root/munge/munge.key"
munged --force --key-file="$root/munge/munge.key" --socket="$sockets/munge" --pid-file="$root/pids/munged" \
  --log-file="$root/log/munged.log" --seed-file="$root/munge/seed"
cat >"$SLURM_CONF" <<CONF
ClusterName=throwaway
SlurmctldHost=control(10.99.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Short-lived credentials: a requeued job waits until its old one has expired.
AuthInfo=socket=$sockets/munge,cred_expire=6
CredType=cred/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$sockets/%n
SlurmctldPidFile=$root/pids/slurmctld
SlurmdPidFile=$root/pids/slurmd-%n
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=30
KillWait=60
MinJobAge=3600
MessageTimeout=30
TCPTimeout=10
SlurmdParameters=config_overrides
CONF
for ((i = 0; i < nodes; i++)); do
  echo "NodeName=node$i NodeAddr=10.99.0.$((i + 1)) CPUs=2 RealMemory=2000 State=UNKNOWN" >>"$SLURM_CONF"
done
echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1" >>"$SLURM_CONF"
echo "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF" >>"$SLURM_CONF"
slurmctld -c

start_node() { # INDEX
  local pid
  unshare --net --mount --uts --pid --fork --mount-proc --kill-child -- bash -c "
    hostname node$1
    ip link set lo up
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
    ip addr add 10.99.0.$(($1 + 1))/24 dev eth0
    ip link set eth0 up
    slurmd -D -N node$1 &
    wait" >"$root/log/node$1.boot" 2>&1 &
  pid=$!
  echo "$pid" >"$root/pids/node$1"
  until [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
  ip link add "v$1" type veth peer name eth0 netns "$pid"
  ip link set "v$1" master br0 up
}
for ((i = 0; i < nodes; i++)); do start_node "$i"; done

for ((try = 0; try < 600; try++)); do
  if [ "$(sinfo --noheader --partition=main --states=idle --format=%D | tr -d ' ')" = "$nodes" ]; then break; fi
  sleep 0.2
done
[ "$try" -lt 600 ] || {
  sinfo -N -l
  tail -n 20 "$root/log/slurmctld.log"
  exit 1
}
started=1
code=0
"$@" || code=$?
[ "$code" -eq 0 ] || {
  squeue --long
  sinfo --Node --long
  tail -n 20 "$root"/log/slurm*.log
} >&2
scancel --user=root 2>/dev/null || true
exit "$code"
