"""`python -m streams` is the command `efficientrec`."""

from streams.cli import main

main()
