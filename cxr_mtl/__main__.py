"""``python -m cxr_mtl``; also what DeepSpeed's launcher starts on every rank."""

from cxr_mtl.cli import main

if __name__ == "__main__":
    main()
