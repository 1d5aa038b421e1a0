"""Make a release folder of a finished run: ``python -m tools.release RUN OUT --licence apache-2.0``."""

from __future__ import annotations

import sys
from pathlib import Path

from recipes.arguments import Arguments, work_begins
from recipes.checkpoint.formats.recognise import check_new
from recipes.cli import run_tool
from recipes.console import quiet_libraries
from recipes.errors import UserError
from recipes.files import path_errors, refuse_lfs_pointer

EXAMPLES = """examples:
  python -m tools.release outputs/quickstart outputs/quickstart_release --licence apache-2.0
  python -m tools.release outputs/lumen_128m lumen --licence cc-by-4.0 \\
      --prompt "India is" --prompt "भारत में बारिश" --remarks limits.md

OUT, which must not exist yet, holds model.nemo, model_extracted/, nemo_inference.sh, the Hugging Face folder
hf/, a model card (README.md), curves/, config.yaml, provenance.json and SHA256SUMS. It appears when all of it
has been verified: the same logits from every form, a completion, no path of this machine and no secret.
"""


def main() -> None:
    """Checks what was asked, then makes the folder."""
    parser = Arguments("tools.release", "Make a release folder of a finished run.", EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's directory, outputs/NAME")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument(
        "--licence",
        "--license",
        required=True,
        metavar="LICENCE",
        help="of the model: apache-2.0, or any other name",
    )
    parser.add_argument("--incomplete", action="store_true", help="release a run with steps left to train")
    parser.add_argument(
        "--prompt", action="append", default=[], help="an example for the card; may be given several times"
    )
    parser.add_argument(
        "--remarks", type=Path, metavar="FILE", help="Markdown for the card's section on intended use"
    )
    parser.add_argument(
        "--llama-cpp",
        type=Path,
        metavar="DIR",
        help="llama.cpp's sources: run its converter and runtime on the model, and compare",
    )
    parser.add_argument(
        "--llama-cpp-python",
        default=sys.executable,
        metavar="PYTHON",
        help="a Python that has llama-cpp-python (default: this one)",
    )
    options = parser.parse_args()
    from recipes.release.finished_run import finished_run  # Not for --help.

    licence = _one_line("--licence", options.licence)
    prompts = [_one_line("--prompt", prompt) for prompt in options.prompt]
    remarks = _text(options.remarks) if options.remarks is not None else ""
    check_new(options.out)
    if options.llama_cpp is not None and not (options.llama_cpp / "convert_hf_to_gguf.py").is_file():
        raise UserError(
            f"--llama-cpp {options.llama_cpp}: holds no convert_hf_to_gguf.py; name llama.cpp's sources"
        )
    with finished_run(options.run, incomplete=options.incomplete):
        pass  # Refused before torch is imported.
    work_begins()
    quiet_libraries()  # Before megatron-core is imported: it warns as it loads.
    from recipes.release.build import write_release
    from recipes.release.llama_cpp import LlamaCpp

    write_release(
        options.run,
        options.out,
        licence=licence,
        incomplete=options.incomplete,
        prompts=prompts,
        remarks=remarks,
        llama_cpp=LlamaCpp(options.llama_cpp, options.llama_cpp_python) if options.llama_cpp else None,
    )
    print(f"released {options.out}")


def _one_line(flag: str, text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1:
        raise UserError(f"{flag}: must be one line of text")
    return text.strip()


def _text(path: Path) -> str:
    with path_errors(path):
        try:
            refuse_lfs_pointer(path)
            return path.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: {error.reason}") from None


if __name__ == "__main__":
    run_tool(main)
