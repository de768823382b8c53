"""Kills the processes of a run, again and again, and counts what is lost: the long form is `make test-kill`."""
