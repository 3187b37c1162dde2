"""``python -m fastcnn``: the command line."""

from fastcnn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
