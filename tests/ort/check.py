"""Runs onnx's checker over files.

    python check.py FILE...

Prints one line a file; exit code 0 only if all are valid.
"""

import sys

import common


def main():
    bad = 0
    for path in sys.argv[1:]:
        result = common.check(path)
        bad += not result["valid"]
        word = "valid" if result["full"] else "valid, shapes not inferred" if result["valid"] else "INVALID"
        print(f"{path}: {word}" + (f": {result['error']}" if "error" in result else ""))
    if len(sys.argv) < 2:
        sys.exit("no file given")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
