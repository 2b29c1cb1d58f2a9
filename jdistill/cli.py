"""The command line: verbs in river order, one configuration and `key=value` overrides each.

Exit codes: 0 done, 2 a mistake of the user's (one paragraph, no traceback), 1 a bug. Neither jax nor torch is imported
before a verb needs it, so that `--help` and mistakes answer at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

EXAMPLES = """\
the river, in order:
  jdistill demo                                     all of it, on text that every machine has
  jdistill embed    configs/x.yaml                  text + teacher -> store
  jdistill train    configs/x.yaml train.steps=500  store -> run folder
  jdistill evaluate runs/x                          run folder or model -> table
  jdistill export   runs/x my-model                 run folder -> verified sentence-transformers folder
  jdistill show     configs/x.yaml                  the resolved configuration
"""


def run() -> NoReturn:
    """The `jdistill` command."""
    with_huge_pages()
    sys.exit(main())


def with_huge_pages() -> None:
    """Start this process again with memory in huge pages, where the C library can do that and was not told otherwise.

    A training step on a CPU touches hundreds of megabytes of fresh memory, and 4 KiB pages make that 8 % slower
    (docs/performance.md). The C library reads the setting only when a process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "verb"):
        parser.print_help()
        return 0
    from jdistill.config import UserError

    try:
        options.verb(options)
    except UserError as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; start the same command again to go on from the last shard or checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    return 0


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

    demo = verb("demo", _demo, "distil, verify and export a search model for your Python libraries")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="student=layers|static, out=FOLDER")
    embed = verb("embed", _embed, "run the teachers once over all texts and keep their vectors")
    embed.add_argument("--shard", default="0/1", metavar="I/N", help="embed every N-th shard, from I: job I of N")
    add_recipe(embed)
    add_recipe(verb("train", _train, "train the student on the store; continues where it stopped"))
    evaluate = verb("evaluate", _evaluate, "measure runs and models side by side")
    evaluate.add_argument("models", nargs="+", metavar="RUN|MODEL", help="run folder, model folder or hub id")
    evaluate.add_argument("--config", help="YAML file whose 'evaluate' section to use instead of the first run's")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    export = verb("export", _export, "write a verified sentence-transformers folder")
    export.add_argument("run", metavar="RUN", help="run folder")
    export.add_argument("out", metavar="OUT", help="folder to write")
    export.add_argument("overrides", nargs="*", metavar="key=value", help="export options, e.g. projection=dense")
    show = verb("show", _show, "print the resolved configuration, or with --schema its JSON Schema")
    show.add_argument("--schema", action="store_true", help="print the JSON Schema of the configuration, for editors")
    show.add_argument("config", nargs="?", help="YAML file of the run")
    show.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from jdistill.demo import run_demo

    run_demo(options.overrides)


def _embed(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verbs.embed(verbs.load_recipe(options.config, options.overrides), shard=options.shard)


def _train(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verbs.train(verbs.load_recipe(options.config, options.overrides))


def _evaluate(options: argparse.Namespace) -> None:
    from jdistill import verbs

    print(verbs.evaluate(options.models, config=options.config, as_json=options.json))


def _export(options: argparse.Namespace) -> None:
    from jdistill import verbs

    verification = verbs.export(options.run, options.out, options.overrides)
    if verification is None:
        print(f"{options.out} is written, but not verified: pip install 'jdistill[teacher]' brings what compares it.")
    else:
        print(verification)


def _show(options: argparse.Namespace) -> None:
    from jdistill import verbs

    print(verbs.show(options.config, options.overrides, schema=options.schema), end="")
