#!/usr/bin/env bash
# Completes prompts with a trained model.
#
#   ./nemo_inference.sh [MODEL] PROMPT... [SETTING=VALUE...]
#
# MODEL is a .nemo file or the directory it was extracted to, a NeMo 2 or Hugging Face directory, or a run; if the
# first argument exists, it is MODEL. Or set gpt_model_file here or in the environment.
# Settings are those of python -m recipes.generate (--help lists them), with NeMo's names:
#
#   ./nemo_inference.sh model.nemo "India is" inference.greedy=true inference.tokens_to_generate=50
#   ./nemo_inference.sh model.nemo interactive=true
#
# After --, everything is a prompt. The commonest settings are also read from the environment: greedy, temperature,
# top_k, top_p, repetition_penalty, tokens_to_generate, min_tokens_to_generate, add_BOS.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

gpt_model_file="${gpt_model_file:-/path_to_.nemo_file}"

if [[ $# -ge 1 && "$1" != gpt_model_file=* && ( "$1" == *.nemo || -e "$1" ) ]]; then
    gpt_model_file=$1
    shift
    if [[ $# -eq 0 ]]; then
        echo "error: no prompt: write one after $gpt_model_file, or interactive=true (--help shows more)" >&2
        exit 2
    fi
fi
usage() {
    sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit "$1"
}

[[ $# -gt 0 ]] || usage 2
[[ "$1" != -h ]] || usage 0
for argument in "$@"; do
    [[ "$argument" == -- ]] && break
    [[ "$argument" == --help ]] && usage 0
    [[ "$argument" == gpt_model_file=* ]] && gpt_model_file=${argument#*=}
done
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
if ! "$python" -P -c '' 2>/dev/null; then
    echo "error: $python is no Python 3.11 or newer: set PYTHON=.../bin/python" >&2
    exit 2
fi
export PYTHONUTF8=1

options=()
for name in greedy temperature top_k top_p repetition_penalty tokens_to_generate min_tokens_to_generate add_BOS; do
    [[ -n "${!name:-}" ]] && options+=("inference.$name=${!name}")
done

# -P: whatever lies in the present directory is not imported.
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -P -c 'import sys
try:
    from recipes.config.script_arguments import complete
except ModuleNotFoundError as error:
    print(f"error: {sys.executable} has no Param Recipes ({error.name} is missing): make quickstart installs it;",
          "or activate its environment or container, or set PYTHON=.../bin/python", file=sys.stderr)
    sys.exit(2)
complete(sys.argv[1:])' "$gpt_model_file" ${options[@]+"${options[@]}"} "$@"
