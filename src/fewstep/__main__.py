"""``python -m fewstep`` is the command line."""

from .cli import main

main()
