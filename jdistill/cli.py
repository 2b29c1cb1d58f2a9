"""The command line: verbs in river order, one configuration and `key=value` overrides each.

Exit codes: 0 done, 2 a mistake of the user's (one paragraph, no traceback), 1 a bug, 75 (EX_TEMPFAIL) start the same
command again: SIGTERM came and a checkpoint was saved, or another process of the run was lost. Where JAX notices that
loss first, it ends the process by SIGABRT, which shells show as 134 and which asks for the same. Neither jax nor torch
is imported before a verb needs it, so that `--help` and mistakes answer at once.
"""

import argparse
import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from jdistill.texts import is_whole

EXAMPLES = """\
the river, in order:
  jdistill demo                                     all of it, on text that every machine has
  jdistill embed    configs/x.yaml                  text + teacher -> store
  jdistill plan     configs/x.yaml                  what training needs on a TPU slice that is not here
  jdistill train    configs/x.yaml train.steps=500  store -> run folder
  jdistill evaluate runs/x                          run folder or model -> table
  jdistill export   runs/x my-model                 run folder -> verified sentence-transformers folder
  jdistill show     configs/x.yaml                  the resolved configuration
  jdistill convert  old-model new-model             pickled weights -> safetensors, for students
"""


AGAIN = 75
"""Exit code that asks to be started again: EX_TEMPFAIL of sysexits.h."""


_REFUSALS = {
    errno.EACCES: "Check who may read and write there.",
    errno.EPERM: "Check who may read and write there.",
    errno.EROFS: "Name a place that can be written to.",
    errno.ENOTDIR: "Name a folder that is not inside a file.",
    errno.EEXIST: "Name another place: a file is where a folder should be.",
    errno.EISDIR: "Name a file.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOSPC: "Free some space, then start the same command again.",
    errno.EDQUOT: "Free some space, then start the same command again.",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f), then start the same command again.",
}
"""What the operating system refuses, and what the user can do about it."""


def run() -> NoReturn:
    """The `jdistill` command."""
    from jdistill import backend

    with_huge_pages()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a character gets its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    backend.prepare()
    try:
        code = main()
    except Exception:  # a bug: what Python would print, but it would then wait for the other processes of a run
        traceback.print_exc()
        code = 1
    if code and "jax" in sys.modules:
        from jdistill.parallel import leave

        leave(code)
    sys.exit(code)


def with_huge_pages() -> None:
    """Start this process again with memory in huge pages, where the C library can do that and was not told otherwise.

    A training step on a CPU touches hundreds of megabytes of fresh memory, and 4 KiB pages make that 8 % slower
    (docs/performance.md). The C library reads the setting only when a process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; `key=value` may stand behind an option too, where argparse leaves it over."""
    options, rest = parser.parse_known_args(arguments)
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not is_whole(argument):  # bytes of another encoding, which checkpoints and weights cannot have in their path
            parser.error(f"argument {argument!r}: is not UTF-8. Rename the file or folder")
    unknown = [item for item in rest if item.startswith("-") or "=" not in item or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name in ("models", "run", "out"):  # `~` that no shell has seen; `config` is expanded where it is read
        given = getattr(options, name, None)
        if isinstance(given, str):
            setattr(options, name, os.path.expanduser(given))
        elif given is not None:
            setattr(options, name, [os.path.expanduser(item) for item in given])
    for name in ("config", "models", "model", "run", "out"):  # "" would mean the folder that one stands in
        given = getattr(options, name, None)
        if any(not item.strip() for item in ([given] if isinstance(given, str) else given or ())):
            parser.error(f"argument {name.rstrip('s').upper()}: is empty, expected a path or a name")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = _parser()
    options = _parsed(parser, arguments)
    if not hasattr(options, "verb"):
        parser.print_help()
        return 0
    from jdistill.config import UserError

    try:
        _require_folder()
        options.verb(options)
    except UserError as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("stopped; start the same command again to go on from the last shard or checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if options.traceback or error.errno not in _REFUSALS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}. {_REFUSALS[error.errno]}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        return _again(error)
    return 0


def _require_folder() -> None:
    """Refuse to start in a folder that was removed, where no relative path means anything."""
    from jdistill.config import UserError

    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the folder that you are in is gone. Change to one that is there (cd), and start again."
        ) from error


def _again(error: Exception) -> int:
    """The exit code of what is no mistake but asks for another start; everything else is a bug, and raised."""
    if "jax" not in sys.modules:
        raise error
    import jax

    from jdistill.parallel import LostProcessError, PreemptedError

    if isinstance(error, PreemptedError):
        if jax.process_index() == 0:
            print(error, file=sys.stderr)
    elif not isinstance(error, LostProcessError):  # who lost one has told already
        raise error
    return AGAIN


def _parser() -> argparse.ArgumentParser:
    from jdistill import __version__

    parser = argparse.ArgumentParser(
        prog="jdistill",
        description="Distil a large embedding model into a small one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jdistill {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, function, summary: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary)
        sub.set_defaults(verb=function)
        sub.add_argument("--traceback", action="store_true", help="show where in the code an error was found")
        return sub

    def add_recipe(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("config", help="YAML file of the run")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="written over the file")

    def add_processes(sub: argparse.ArgumentParser) -> None:
        several = sub.add_argument_group(
            "several processes, unless a TPU slice, GKE JobSet or SLURM step tells of them"
        )
        several.add_argument("--coordinator", metavar="HOST:PORT", help="process 0, as the others reach it")
        several.add_argument("--processes", type=int, metavar="N", help="how many there are")
        several.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")

    demo = verb("demo", _demo, "distil, verify and export a search model for your Python libraries")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="student=layers|static, out=FOLDER")
    embed = verb("embed", _embed, "run the teachers once over all texts and keep their vectors")
    embed.add_argument("--shard", default="0/1", metavar="I/N", help="embed every N-th shard, from I: job I of N")
    add_recipe(embed)
    plan = verb("plan", _plan, "compile the train step for a TPU slice that is not here: memory, work, verdict")
    plan.add_argument("--topology", nargs="+", required=True, metavar="CHIP:SHAPE", help="v5e:16x16, v5p:4x4x4, h100:8")
    plan.add_argument("--length", metavar="N|QxD", help="tokens of a text, or of queries and documents")
    plan.add_argument("--teacher-width", action="append", default=[], metavar="[NAME=]N", help="of a teacher not here")
    plan.add_argument("--search", action="store_true", help="find the largest batch by compiling others too; slow")
    plan.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_recipe(plan)
    train = verb("train", _train, "train the student on the store; continues where it stopped")
    add_recipe(train)
    add_processes(train)
    evaluate = verb("evaluate", _evaluate, "measure runs and models side by side")
    evaluate.add_argument(
        "models",
        nargs="+",
        metavar="RUN|MODEL",
        help="run folder, model folder or hub id; a teacher of the recipe, by its name or its model, is asked as the "
        "recipe says: with its prompts, max_length, layer and width",
    )
    evaluate.add_argument("--config", help="YAML file whose 'evaluate' section to use instead of the first run's")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_processes(evaluate)
    export = verb("export", _export, "write a verified sentence-transformers folder")
    export.add_argument("run", metavar="RUN", help="run folder")
    export.add_argument("out", metavar="OUT", help="folder to write")
    export.add_argument("overrides", nargs="*", metavar="key=value", help="export options, e.g. projection=dense")
    show = verb("show", _show, "print the resolved configuration, or with --schema its JSON Schema")
    show.add_argument("--schema", action="store_true", help="print the JSON Schema of the configuration, for editors")
    show.add_argument("--check", action="store_true", help="find what would stop a training, without training")
    show.add_argument("config", nargs="?", help="YAML file of the run")
    show.add_argument("overrides", nargs="*", metavar="key=value")
    convert = verb("convert", _convert, "write a model with pickled weights as safetensors, for students")
    convert.add_argument("model", metavar="MODEL", help="model folder or hub id")
    convert.add_argument("out", metavar="OUT", help="folder to write; it must not exist")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from jdistill.demo import run_demo

    run_demo(options.overrides)


def _embed(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verbs.embed(verbs.load_recipe(options.config, options.overrides), shard=options.shard)


def _plan(options: argparse.Namespace) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs: leave this machine's accelerators to others
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # JAX writes programs of absent chips, but cannot read them
    from jdistill import verbs

    # argparse gives what follows the topologies to them: a key=value is none.
    topologies = [item for item in options.topology if "=" not in item]
    recipe = verbs.load_recipe(
        options.config, [*options.overrides, *(item for item in options.topology if "=" in item)]
    )
    print(
        verbs.plan(
            recipe,
            topologies,
            length=options.length,
            teacher_width=options.teacher_width,
            search=options.search,
            as_json=options.json,
        )
    )


def _train(options: argparse.Namespace) -> None:
    from jdistill import verbs

    recipe = verbs.load_recipe(options.config, options.overrides)
    with _processes(options):
        verbs.train(recipe)


def _evaluate(options: argparse.Namespace) -> None:
    from jdistill import verbs

    with _processes(options) as first:
        text = verbs.evaluate(options.models, config=options.config, as_json=options.json)
        if first:
            print(text)


@contextmanager
def _processes(options: argparse.Namespace) -> Iterator[bool]:
    """Together with the other processes of the run, if there are any; whether this is the first of them."""
    import jax

    from jdistill import parallel

    with parallel.joined(parallel.address(options.coordinator, options.processes, options.process)):
        yield jax.process_index() == 0


def _export(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verification = verbs.export(options.run, options.out, options.overrides)
    if verification is None:
        print(f"{options.out} is written, but not verified: pip install 'jdistill[teacher]' brings what compares it.")
    else:
        print(verification)


def _convert(options: argparse.Namespace) -> None:
    from jdistill import verbs

    print(f"{verbs.convert(options.model, options.out)} is written: student.init may name it.")


def _show(options: argparse.Namespace) -> None:
    if options.check:
        os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed that an accelerator would be worth
    from jdistill import verbs

    if options.check and options.config is not None and not options.schema:
        shown = verbs.check(verbs.load_recipe(options.config, options.overrides))
    else:
        shown = verbs.show(options.config, options.overrides, schema=options.schema)
    print(shown, end="")
