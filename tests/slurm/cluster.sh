#!/bin/bash
# A SLURM cluster of one node on this machine, for `make test-slurm`: Debian's slurm-wlm and munge, on loopback, as root.
#
#   tests/slurm/cluster.sh         install what is missing, start what is not running
#   tests/slurm/cluster.sh stop    stop it; installed packages stay
#
# Partition `urgent` preempts partition `spare`, whose jobs have GRACE seconds and are then requeued.
set -euo pipefail

GRACE=30
STATE=/var/spool/slurm-rlbench
CONFIG=/etc/slurm/slurm.conf

stop() {
    for name in slurmd slurmctld munged; do
        if [ -f "$STATE/$name.pid" ] && kill -0 "$(cat "$STATE/$name.pid")" 2>/dev/null; then
            kill "$(cat "$STATE/$name.pid")"
        fi
        rm -f "$STATE/$name.pid"
    done
}

running() { [ -f "$STATE/$1.pid" ] && kill -0 "$(cat "$STATE/$1.pid")" 2>/dev/null; }

if [ "$(id -u)" != 0 ]; then
    echo "tests/slurm/cluster.sh: it installs packages and starts daemons: run it as root" >&2
    exit 2
fi
if [ "${1:-}" = stop ]; then
    stop
    exit
fi
if [ -f "$CONFIG" ] && ! grep -q rlbench-test "$CONFIG"; then
    echo "tests/slurm/cluster.sh: $CONFIG is of another cluster; it is left alone" >&2
    exit 2
fi

if ! command -v slurmctld slurmd munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

mkdir -p "$STATE/ctld" "$STATE/slurmd"
HOST=$(hostname -s)
cat >"$STATE/slurm.conf" <<CONF
ClusterName=rlbench-test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/slurmd
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MinJobAge=300
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=spare Nodes=$HOST Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE State=UP
PartitionName=urgent Nodes=$HOST MaxTime=60 PriorityTier=2 PreemptMode=OFF State=UP
CONF
if ! cmp -s "$STATE/slurm.conf" "$CONFIG"; then
    stop
    mkdir -p /etc/slurm
    cp "$STATE/slurm.conf" "$CONFIG"
fi

if ! running munged; then
    mkdir -p /run/munge /var/log/munge /var/lib/munge
    chown munge: /run/munge /var/log/munge /var/lib/munge
    # munge refuses folders that others may write to, parents included. Containers often have such folders, hence --force.
    su -s /bin/sh munge -c "munged --force --pid-file=/run/munge/munged.pid"
    ln -sf /run/munge/munged.pid "$STATE/munged.pid"
fi
running slurmctld || slurmctld
running slurmd || slurmd

for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -q -E 'idle|mixed|allocated'; then
        sinfo
        exit
    fi
    # After a hard stop the controller remembers the node as down.
    scontrol update nodename="$HOST" state=resume 2>/dev/null || true
    sleep 1
done
echo "tests/slurm/cluster.sh: no node became ready; see $STATE/*.log" >&2
exit 1
