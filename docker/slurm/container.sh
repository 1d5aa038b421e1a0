#!/usr/bin/env bash
# Functions of pretrain.sbatch: the image in the forms that pyxis and enroot read, and its import into a file.

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
