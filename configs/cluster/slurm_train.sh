#!/bin/bash
# A run on SLURM, on one node or several. With the environment active, in the folder that the run file's paths start from:
#   sbatch --nodes=2 --gpus-per-node=8 configs/cluster/slurm_train.sh NAME -c configs/nih_convnext.yaml
#   VERB=pretrain sbatch --gpus-per-node=8 configs/cluster/slurm_train.sh NAME -c configs/pretrain_nih_gpu.yaml
# The folder of runs (RUNS, or ./runs) and the films must lie on a disk that all nodes share. Five minutes before the
# end of the allocation the run saves and stops; the job goes back into the queue, and on from there.
#SBATCH --job-name=cxr_mtl
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300

set -u
name=${1:?give the name of the run first, then the arguments of cxr-mtl train}
shift
runs=${RUNS:-runs}

# Only a run that has a checkpoint can go on from one.
resume=()
[ -e "$runs/$name/checkpoints/latest" ] && resume=(--resume)

# SLURM warns this script alone (B:), and the script tells torchrun, which passes SIGTERM on to the ranks. It would kill
# after 30 seconds what has not gone then; four minutes have room for a validation, a step and a checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240
told=0
trap 'told=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1

# One torchrun a node. Jobs that share a node need ports of their own. Since SLURM 22.05 srun gives its tasks one core
# each, whatever the job has, unless it is told.
master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_backend c10d --rdzv_endpoint "$master:$((20000 + SLURM_JOB_ID % 10000))" --rdzv_id "$SLURM_JOB_ID" \
    --module cxr_mtl "${VERB:-train}" "$@" -s "name=$name" -s "output=$runs" "${resume[@]}" &
ranks=$!

# wait comes back when a signal does, and has to be asked again.
wait "$ranks"
code=$?
while kill -0 "$ranks" 2> /dev/null; do
    wait "$ranks"
    code=$?
done
# What was finished, or went wrong by itself, does not go back into the queue.
[ "$told" = 1 ] && [ "$code" != 0 ] && exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"
