"""`python -m jdistill` runs the `jdistill` command."""

from jdistill.cli import run

run()
