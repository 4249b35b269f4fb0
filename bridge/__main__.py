"""`python -m bridge`: the same as the command `bridge`, for places where the script is not on the PATH."""

from bridge.cli import main

if __name__ == "__main__":
    main()
