"""The command line. Most commands take one config file and `key=value` overrides; exit_codes.py says how they end.

jax and torch are imported only when a command needs them, so that `--help` and user errors return immediately.
"""

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from jdistill.exit_codes import exit_code
from jdistill.texts import is_whole

EXAMPLES = """\
the pipeline, in order:
  jdistill demo                                     the full pipeline on text already on your machine
  jdistill embed    configs/x.yaml                  text + teacher -> store
  jdistill prune    configs/x.yaml                  model + text -> smaller model, where the recipe prunes one
  jdistill plan     configs/x.yaml                  memory and work of training on a TPU slice you don't have yet
  jdistill train    configs/x.yaml train.steps=500  store -> run folder
  jdistill evaluate runs/x                          run folder or model -> table
  jdistill export   runs/x my-model                 run folder -> verified sentence-transformers folder
  jdistill show     configs/x.yaml                  the resolved config
  jdistill convert  old-model new-model             pickled weights -> safetensors, for students
  jdistill store    info stores/x                   what a store contains; also verify, import and export
"""


def run() -> NoReturn:
    """The `jdistill` command."""
    from jdistill import backend

    if isinstance(sys.stdout, io.TextIOWrapper):  # escape characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    backend.prepare()
    try:
        code = main()
    except Exception:  # a bug; print as Python would, but without waiting for the other processes at exit
        traceback.print_exc()
        code = 1
    if code and "jax" in sys.modules:
        from jdistill.parallel import leave

        leave(code)
    sys.exit(code)


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments, also accepting `key=value` after an option, where argparse leaves it unparsed."""
    options, rest = parser.parse_known_args(arguments)
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not is_whole(argument):  # not UTF-8; checkpoint and weight paths must be
            parser.error(f"argument {argument!r}: is not UTF-8. Rename the file or folder")
    unknown = [item for item in rest if item.startswith("-") or "=" not in item or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name in (
        "models",
        "run",
        "out",
        "store",
        "dataset",
    ):  # expand `~` the shell left alone; `config` is expanded when it is read
        given = getattr(options, name, None)
        if isinstance(given, str):
            setattr(options, name, os.path.expanduser(given))
        elif given is not None:
            setattr(options, name, [os.path.expanduser(item) for item in given])
    for name in ("config", "models", "model", "run", "out", "store", "dataset"):  # "" would mean the current folder
        given = getattr(options, name, None)
        if any(not item.strip() for item in ([given] if isinstance(given, str) else given or ())):
            parser.error(f"argument {name.rstrip('s').upper()}: is empty, expected a path or a name")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parser = _parser()
    options = _parsed(parser, arguments)
    if not hasattr(options, "verb"):
        parser.print_help()
        return 0
    try:
        _require_folder()
        options.verb(options)
    except (Exception, KeyboardInterrupt) as error:
        return exit_code(error, traceback=options.traceback)
    return 0


def _require_folder() -> None:
    """Refuse to start in a deleted folder, where relative paths cannot be resolved."""
    from jdistill.config import UserError

    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current folder no longer exists. Change to an existing one (cd) and rerun.") from error


class _Parser(argparse.ArgumentParser):
    """Reports mistakes in the arguments as other mistakes of the user are, followed by the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and the usage, and exit with 2."""
        message = message.replace("the following arguments are required:", "missing:")
        self.exit(2, f"error: {self.prog}: {message}\n{self.format_usage()}")


def _parser() -> argparse.ArgumentParser:
    from jdistill import __version__

    parser = _Parser(
        prog="jdistill",
        description="Distil a large embedding model into a small one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jdistill {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND")

    def verb(name: str, function, summary: str, among=verbs) -> argparse.ArgumentParser:
        sub = among.add_parser(name, help=summary, description=summary)
        sub.set_defaults(verb=function)
        sub.add_argument("--traceback", action="store_true", help="show the traceback of user errors")
        return sub

    def add_overrides(sub: argparse.ArgumentParser, text: str) -> None:
        # With a default, argparse does not list them among the arguments that are missing.
        sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=text)

    def add_recipe(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("config", metavar="CONFIG", help="YAML file of the run")
        add_overrides(sub, "overrides a config value")

    def add_processes(sub: argparse.ArgumentParser) -> None:
        several = sub.add_argument_group(
            "multiple processes (detected automatically on TPU slices, GKE JobSets and SLURM)"
        )
        several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
        several.add_argument("--processes", type=int, metavar="N", help="number of processes")
        several.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")

    demo = verb("demo", _demo, "distil, verify and export a search model for your Python libraries")
    add_overrides(demo, "student=layers|static, out=FOLDER")
    embed = verb("embed", _embed, "run the teachers once over all texts and store their vectors")
    embed.add_argument("--shard", default="0/1", metavar="I/N", help="embed every N-th shard from I, to split the work")
    add_recipe(embed)
    plan = verb("plan", _plan, "compile the train step for a TPU slice you don't have yet: memory, work, verdict")
    plan.add_argument("--topology", nargs="+", required=True, metavar="CHIP:SHAPE", help="v5e:16x16, v5p:4x4x4, h100:8")
    plan.add_argument("--length", metavar="N|QxD", help="tokens per text, or per query and document")
    plan.add_argument("--teacher-width", action="append", default=[], metavar="[NAME=]N", help="of an absent teacher")
    plan.add_argument("--search", action="store_true", help="search for the largest batch that fits; slow")
    plan.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_recipe(plan)
    prune = verb(
        "prune", _prune, "make a trained model smaller, using the texts of the store, for a student to start from"
    )
    add_recipe(prune)
    train = verb("train", _train, "train the student on the store; resumes an interrupted run")
    add_recipe(train)
    add_processes(train)
    evaluate = verb("evaluate", _evaluate, "evaluate and compare runs and models")
    evaluate.add_argument(
        "models",
        nargs="+",
        metavar="RUN|MODEL",
        help="run folder, model folder or hub id; a teacher of the recipe, given by its name or its model, uses the "
        "recipe's prompts, max_length, layer and width",
    )
    evaluate.add_argument("--config", help="YAML file with the 'evaluate' section to use; default: the first run's")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_processes(evaluate)
    export = verb("export", _export, "write a verified sentence-transformers folder")
    export.add_argument("run", metavar="RUN", help="run folder")
    export.add_argument("out", metavar="OUT", help="folder to write")
    add_overrides(export, "export options, e.g. projection=dense")
    show = verb("show", _show, "print the resolved config, or with --schema its JSON Schema")
    show.add_argument("--schema", action="store_true", help="print the JSON Schema of the config, for editors")
    show.add_argument("--check", action="store_true", help="check that training would start, without training")
    show.add_argument("config", nargs="?", help="YAML file of the run")
    add_overrides(show, "overrides a config value")
    convert = verb("convert", _convert, "write a model with pickled weights as safetensors, for students")
    convert.add_argument("model", metavar="MODEL", help="model folder or hub id")
    convert.add_argument("out", metavar="OUT", help="folder to write; it must not exist")
    summary = "describe or verify a store, or exchange teacher vectors as data sets"
    store = verbs.add_parser("store", help=summary, description=summary)
    actions = store.add_subparsers(title="actions", metavar="ACTION", required=True)
    info = verb("info", _store_info, "print texts, rows, teachers and sizes", actions)
    info.add_argument("store", metavar="STORE", help="folder of the store")
    info.add_argument("--json", action="store_true", help="print JSON instead of text")
    check = verb(
        "verify", _store_verify, "compare every file with its hash, and every vector's key with its text", actions
    )
    check.add_argument("store", metavar="STORE", help="folder of the store")
    load = verb("import", _store_import, "add the texts and vectors of a data set", actions)
    load.add_argument("dataset", metavar="DATASET", help="folder of save_to_disk, or parquet file")
    load.add_argument("store", metavar="STORE", help="folder of the store; created if it does not exist")
    add_overrides(load, "teacher=NAME, role=ROLE, columns.document=COLUMN, description.model=MODEL, ...")
    save = verb("export", _store_export, "write the texts and vectors of one role and teacher as a data set", actions)
    save.add_argument("store", metavar="STORE", help="folder of the store")
    save.add_argument("dataset", metavar="DATASET", help="folder to write, or a file that ends in .parquet")
    add_overrides(save, "teacher=NAME, role=ROLE")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from jdistill.demo import run_demo

    run_demo(options.overrides)


def _embed(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verbs.embed(verbs.load_recipe(options.config, options.overrides), shard=options.shard)


def _plan(options: argparse.Namespace) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs: leave the accelerators free
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # JAX cannot read cached programs of absent chips back
    from jdistill import verbs

    # argparse appends the key=value overrides that follow --topology to the topologies.
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


def _prune(options: argparse.Namespace) -> None:
    from jdistill import verbs

    print(verbs.prune(verbs.load_recipe(options.config, options.overrides)))


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
    """Join the other processes of the run, if any; yields whether this is process 0."""
    import jax

    from jdistill import parallel

    with parallel.joined(parallel.address(options.coordinator, options.processes, options.process)):
        yield jax.process_index() == 0


def _export(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verification = verbs.export(options.run, options.out, options.overrides)
    if verification is None:
        print(f"Wrote {options.out}, not verified: verification needs pip install 'jdistill[teacher]'.")
    else:
        print(verification)


def _convert(options: argparse.Namespace) -> None:
    from jdistill import verbs

    print(f"Wrote {verbs.convert(options.model, options.out)}. Use it as student.init.")


def _store_info(options: argparse.Namespace) -> None:
    from jdistill.verbs import store

    content = store.info(options.store)
    print(json.dumps(content, indent=2) if options.json else store.format_info(content))


def _store_verify(options: argparse.Namespace) -> None:
    from jdistill.verbs import store

    print(store.check(options.store))


def _store_import(options: argparse.Namespace) -> None:
    from jdistill.verbs import store

    print(store.import_dataset(options.dataset, options.store, options.overrides))


def _store_export(options: argparse.Namespace) -> None:
    from jdistill.verbs import store

    print(store.export_dataset(options.store, options.dataset, options.overrides))


def _show(options: argparse.Namespace) -> None:
    if options.check:
        os.environ["JAX_PLATFORMS"] = "cpu"  # too little computation to occupy an accelerator
    from jdistill import verbs

    if options.check and options.config is not None and not options.schema:
        shown = verbs.check(verbs.load_recipe(options.config, options.overrides))
    else:
        shown = verbs.show(options.config, options.overrides, schema=options.schema)
    print(shown, end="")
