"""`python -m ptune` is `ptune`."""

from ptune.cli import main

main()
