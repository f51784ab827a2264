"""`python -m robustlab.cli`."""

from robustlab.cli.app import main

if __name__ == "__main__":
    main()
