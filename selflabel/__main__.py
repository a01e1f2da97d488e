"""``python -m selflabel``: the command line without its script."""

from selflabel.cli import main

main()
