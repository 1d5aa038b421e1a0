#!/usr/bin/env bash
# Functions of the job scripts: what every task gets, the image in the forms that pyxis and enroot read, and its import
# into a file. The scripts source it from the project directory, for Slurm runs a copy of them from elsewhere.

# enroot separates the registry from the image with "#" and would look for docker.io/registry.example.org/...
# otherwise; enroot 4 also reads a host with a dot or a port, but enroot 3 does not. As Docker does, take what is
# before the first slash for a registry if it holds a dot or a colon or is localhost: without either it is a name on
# Docker Hub, as in "library/python:3.12".
pyxis_image() { # IMAGE
  local image=$1 scheme='' user='' host rest
  case $image in
    *'#'* | /* | ./* | ../* | *.sqsh) # the registry is marked already; a file
      case $image in
        /* | *://*) ;;
        *.sqsh) image=$PWD/${image#./} ;;
      esac
      printf '%s\n' "$image"
      return
      ;;
    docker://*) scheme=docker:// image=${image#docker://} ;;
    *://*) # the image of another engine: dockerd://, podman://
      printf '%s\n' "$image"
      return
      ;;
  esac
  host=${image%%/*} rest=${image#*/}
  case $host in *@*) user=${host%%@*}@ host=${host#*@} ;; esac
  if [ "$rest" != "$image" ] && [[ $host == *[.:]* || $host == localhost ]]; then
    image=$user$host#$rest
  fi
  printf '%s\n' "$scheme$image"
}

# Imports an image into a file on the shared file system, once, whatever number of jobs wants it: from the registry's
# point of view, one node instead of all. The file appears complete or not at all.
import_image() { # IMAGE FILE
  local uri file=$2
  uri=$(pyxis_image "$1")
  case $uri in *://*) ;; *) uri=docker://$uri ;; esac
  [ -e "$file" ] && return
  mkdir -p "$(dirname "$file")" || return
  (
    flock 9 || exit 1
    [ -e "$file" ] && exit 0 # another job has imported it meanwhile
    rm -f "$file.partial"    # enroot does not overwrite what a killed import has left
    enroot import --output "$file.partial" "$uri" && mv "$file.partial" "$file"
  ) 9>"$file.lock"
}

# The processors of each task: those of the node with the fewest, shared by its tasks. Slurm gives a task one
# processor unless told otherwise, and with CPU binding all threads of a rank, data loader and NCCL would share it.
cpus_per_task() { # CPUS_PER_NODE TASKS_PER_NODE, in Slurm's short form: 96(x63),48 8
  local part cpus fewest='' tasks=${2%%[(,]*}
  for part in ${1//,/ }; do
    cpus=${part%%(*}
    if [ -z "$fewest" ] || [ "$cpus" -lt "$fewest" ]; then fewest=$cpus; fi
  done
  cpus=$((fewest / tasks))
  echo $((cpus > 0 ? cpus : 1))
}

# What torch and NCCL need to know in every task; sets nodes, the names of the job's nodes, a line for each.
# shellcheck disable=SC2034 # the scripts read it
set_task_environment() { # JOB RESTART
  if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || fail "scontrol cannot read $SLURM_JOB_NODELIST"
    MASTER_ADDR=${nodes%%$'\n'*}
  else
    MASTER_ADDR=localhost
  fi
  # The port changes with every restart, because the previous socket may linger.
  MASTER_PORT=$((20000 + ($1 + $2) % 10000))
  export MASTER_ADDR MASTER_PORT
  # On Hopper, tensor and context parallelism overlap correctly only with one hardware queue.
  export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
  # A failed collective ends its rank instead of leaving it hanging.
  export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}
  export PYTHONUNBUFFERED=1

  # Slurm's cgroup plugin signals only the shell of task.sh, which must then forward the signal; the other plugins
  # also signal the training process, which would then get it twice.
  FORWARD_SIGNALS=1
  scontrol show config 2>/dev/null | grep -Eq 'ProctrackType *= *proctrack/(linuxproc|pgid)' && FORWARD_SIGNALS=0
  export FORWARD_SIGNALS
}

# Sets srun (with its options), inside (what stands before a program in a container) and python, as CONTAINER_RUNTIME,
# CONTAINER_IMAGE, CONTAINER_FILE, CONTAINER_MOUNTS and VENV say.
# shellcheck disable=SC2034 # the scripts read them
choose_runtime() { # PROJECT DRY_RUN
  local project=$1 dry_run=$2 cpus image venv
  srun=(srun)
  inside=()
  # Since Slurm 22.05, srun no longer inherits --cpus-per-task from sbatch.
  cpus=${SLURM_CPUS_PER_TASK:-}
  if [ -z "$cpus" ] && [ -n "${SLURM_JOB_CPUS_PER_NODE:-}" ]; then
    cpus=$(cpus_per_task "$SLURM_JOB_CPUS_PER_NODE" "${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE:-1}}")
  fi
  if [ -n "$cpus" ]; then srun+=("--cpus-per-task=$cpus"); fi
  if [ "${CONTAINER_RUNTIME:-pyxis}" = apptainer ]; then
    [ -n "${CONTAINER_IMAGE:-}" ] || fail "CONTAINER_RUNTIME=apptainer needs CONTAINER_IMAGE"
    [ -z "${CONTAINER_FILE:-}" ] || fail "CONTAINER_FILE=$CONTAINER_FILE: only pyxis reads it; unset it"
    inside=(apptainer exec --nv --bind "$project${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}" --pwd "$project"
      "$CONTAINER_IMAGE")
    python=python
  elif [ -n "${CONTAINER_RUNTIME:-}" ] && [ "$CONTAINER_RUNTIME" != pyxis ]; then
    fail "CONTAINER_RUNTIME=$CONTAINER_RUNTIME: choose pyxis or apptainer"
  elif [ -n "${CONTAINER_IMAGE:-}" ]; then
    image=$(pyxis_image "$CONTAINER_IMAGE")
    if [ -n "${CONTAINER_FILE:-}" ]; then
      case $image in *.sqsh) fail "CONTAINER_FILE=$CONTAINER_FILE: CONTAINER_IMAGE is a file already; unset one" ;; esac
      case $CONTAINER_FILE in *.sqsh) ;; *) fail "CONTAINER_FILE=$CONTAINER_FILE: give a name that ends with .sqsh" ;; esac
      [ "$dry_run" != 1 ] || [ -e "$CONTAINER_FILE" ] || echo "the job will import $image into $CONTAINER_FILE"
      image=$(pyxis_image "$CONTAINER_FILE")
    elif [[ $image == /* && $dry_run != 1 && ! -e $image ]]; then
      fail "CONTAINER_IMAGE=$CONTAINER_IMAGE: no such file"
    fi
    srun+=("--container-image=$image"
      "--container-mounts=$project:$project${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}"
      "--container-workdir=$project" --no-container-mount-home)
    python=python
  else
    venv=${VENV:-$project/.venv}
    python=$venv/bin/python
    export PATH=$venv/bin:$PATH
    [ "$dry_run" = 1 ] || [ -x "$python" ] || fail "$python: no such program; set VENV or CONTAINER_IMAGE"
  fi
}

# Whether somebody has cancelled this job. While its tasks end, Slurm shows of a job no more than COMPLETING, whatever
# ended it: its time limit, preemption, or Slurm's own requeueing, after which it counts one more restart.
is_cancelled() { # JOB RESTART
  local shown restarts ran limit
  shown=$(scontrol --oneliner show job "$1" 2>/dev/null)
  case $shown in *JobState=CANCELLED*) return 0 ;; *JobState=COMPLETING*) ;; *) return 1 ;; esac
  restarts=$(sed -n 's/.* Restarts=\([0-9]*\).*/\1/p' <<<"$shown")
  [ "${restarts:-0}" -le "$2" ] || return 1
  case $shown in *" PreemptTime=None"*) ;; *" PreemptTime="*) return 1 ;; esac
  ran=$(seconds_of "$(sed -n 's/.* RunTime=\([^ ]*\).*/\1/p' <<<"$shown")")
  limit=$(seconds_of "$(sed -n 's/.* TimeLimit=\([^ ]*\).*/\1/p' <<<"$shown")")
  [ -z "$limit" ] || [ "${ran:-0}" -lt "$limit" ]
}
seconds_of() { # DAYS-HH:MM:SS, or something else: nothing
  if [[ $1 =~ ^(([0-9]+)-)?([0-9]+):([0-9]+):([0-9]+)$ ]]; then
    echo $((10#0${BASH_REMATCH[2]} * 86400 + 10#${BASH_REMATCH[3]} * 3600 + 10#${BASH_REMATCH[4]} * 60 + 10#${BASH_REMATCH[5]}))
  fi
}
