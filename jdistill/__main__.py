"""`python -m jdistill` is the `jdistill` command."""

from jdistill.cli import run

run()
