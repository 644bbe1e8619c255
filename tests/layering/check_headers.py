#!/usr/bin/env python3
"""Checks that every header compiles alone.

usage: check_headers.py SOURCE_ROOT BUILD_ROOT CC...

BUILD_ROOT is where generated headers are. Exit status 0: all do; 1: the compiler's messages.
"""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def flags_for(root, build, path):
    # Generated headers lie in the build folder at the place of their room.
    return ["-D_GNU_SOURCE", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-Wno-unused-function",
            "-Wno-unused-const-variable", "-fsyntax-only", "-I" + os.path.join(root, "src"), "-I" + os.path.join(build, "src"),
            "-x", "c", "-include", path, os.devnull]


def main():
    root, build, cc = sys.argv[1], sys.argv[2], sys.argv[3:]
    headers = sorted(os.path.join(folder, n) for folder, _, names in os.walk(os.path.join(root, "src"))
                     for n in names if n.endswith(".h"))
    if not headers:
        sys.exit("no headers below " + root)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda h: subprocess.run(cc + flags_for(root, build, h), stderr=subprocess.PIPE, text=True), headers))
    bad = [(h, r.stderr) for h, r in zip(headers, runs) if r.returncode]
    for h, text in bad:
        print("%s does not compile alone:\n%s" % (os.path.relpath(h, root), text))
    print("%d headers, %d of them do not compile alone" % (len(headers), len(bad)))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
