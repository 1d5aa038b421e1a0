#!/usr/bin/env bash
# Completes prompts with a trained model.
#
#   ./nemo_inference.sh [MODEL] PROMPT...
#
# MODEL is a .nemo file or the directory it was extracted to, a NeMo 2 or Hugging Face directory, or a run; if the
# first argument exists, it is MODEL. Or set gpt_model_file here or in the environment.
# NeMo's inference options are also read from the environment: greedy, temperature, top_k, top_p,
# repetition_penalty, tokens_to_generate, min_tokens_to_generate, add_BOS.
set -euo pipefail

gpt_model_file="${gpt_model_file:-/path/to/model.nemo}"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $# -ge 1 && ( "$1" == *.nemo || -e "$1" ) ]]; then
    gpt_model_file=$1
    shift
fi
if [[ $# -eq 0 || "$1" == -h || "$1" == --help ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ $# -gt 0 ]] && exit 0 || exit 2
fi
if [[ ! -e "$gpt_model_file" ]]; then
    echo "error: gpt_model_file=$gpt_model_file: no such file; set it, or give the model as first argument" >&2
    exit 2
fi

# PYTHON if it is set, otherwise the repository's environment, otherwise the system's python3.
python="${PYTHON:-$here/.venv/bin/python}"
[[ -n "${PYTHON:-}" || -x "$python" ]] || python=python3
if ! python=$(type -P -- "$python"); then
    echo "error: PYTHON=$PYTHON: no such program" >&2
    exit 2
fi
[[ "$python" == /* ]] || python="$PWD/$python"
export PYTHONUTF8=1

options=()
for name in greedy temperature top_k top_p repetition_penalty tokens_to_generate min_tokens_to_generate add_BOS; do
    [[ -n "${!name:-}" ]] && options+=("inference.$name=${!name}")
done

# Prompts are passed in a file, so that nothing in them can be taken for a setting.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" - "$work/prompts.jsonl" "$@" <<'PYTHON'
import json
import sys

with open(sys.argv[1], "w", encoding="utf-8") as file:
    for prompt in sys.argv[2:]:
        file.write(json.dumps({"text": prompt}) + "\n")
PYTHON
# Paths are passed in the environment, so that Hydra does not parse their characters.
NEMO_MODEL=$(realpath "$gpt_model_file")
export NEMO_MODEL NEMO_WORK=$work
cd "$here"
# shellcheck disable=SC2016 # Hydra expands these, not the shell.
"$python" -m recipes.generate 'gpt_model_file=${oc.env:NEMO_MODEL}' \
    'prompts_jsonl=${oc.env:NEMO_WORK}/prompts.jsonl' 'output_jsonl=${oc.env:NEMO_WORK}/completions.jsonl' \
    ${options[@]+"${options[@]}"} >"$work/log"
"$python" - "$work/completions.jsonl" <<'PYTHON'
import json
import sys

for line in open(sys.argv[1], encoding="utf-8"):
    completion = json.loads(line)
    print(completion["prompt"] + completion["completion"])
PYTHON
