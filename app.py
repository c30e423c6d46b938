import sys

from ssast_lab.__main__ import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
