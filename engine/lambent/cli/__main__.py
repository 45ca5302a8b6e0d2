"""`python -m lambent.cli`: the same as `lambent`."""

from lambent.cli import main

main()
