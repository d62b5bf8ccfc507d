"""`python -m reindexer` is the `reindexer` command."""

from reindexer.cli import main

if __name__ == "__main__":
    main()
