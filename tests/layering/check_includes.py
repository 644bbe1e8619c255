#!/usr/bin/env python3
"""Checks that includes only point up the table of rooms (docs/architecture.md), and that no C++ got in.

usage: check_includes.py SOURCE_ROOT [PROGRAM]

- A file of a room may include headers of its own room and of the rooms it stands on (transitively).
- A header that ends in _priv.h is for its own room and the rooms inside it.
- Only graph/onnx sees the types that protoc-c generates.
- No file of the tree is C++, and PROGRAM, if given, links neither libstdc++ nor libc++ (asked only where no sanitizer, whose
  run-time library needs the former, is linked in).
Exit status 0: all well; 1: the violations, one a line.
"""
import os
import re
import subprocess
import sys

# room -> the rooms whose headers it may include besides its own
ROOMS = {
    "base": [],
    "graph": ["base"],
    "graph/op": ["graph"],
    "graph/pass": ["graph", "graph/op"],
    "graph/onnx": ["graph", "graph/op"],
    "sched": ["graph"],
    "zero": ["sched"],
    "exec": ["sched"],
    "cpu": ["exec"],
    "cuda": ["exec"],
    "train": ["base", "graph", "graph/op", "graph/pass", "graph/onnx", "sched", "zero", "exec", "cpu", "cuda"],
    "cli": ["train"],
}
CPP = (".cpp", ".cc", ".cxx", ".hpp", ".hh")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def reach(room):
    """The rooms that `room` stands on, itself among them."""
    seen, todo = set(), [room]
    while todo:
        r = todo.pop()
        if r not in seen:
            seen.add(r)
            todo += ROOMS[r]
    return seen


def room_of(path):
    """The room of a path below src/, or None: the deepest room whose folder holds it."""
    folder = os.path.dirname(path)
    while folder and folder not in ROOMS:
        folder = os.path.dirname(folder)
    return folder or None


def violations_in(src, path):
    room = room_of(path)
    if room is None:
        return ["src/%s: in no room of the table" % path]
    found = []
    with open(os.path.join(src, path), encoding="utf-8") as f:
        text = f.read()
    for m in INCLUDE.finditer(text):
        name, line = m[1], text.count("\n", 0, m.start()) + 1
        there = room_of(name)
        where = "src/%s:%d: includes \"%s\"" % (path, line, name)
        if there is None:
            found.append(where + ": write the path from src/")
        elif there not in reach(room):
            found.append("%s: room %s may not include room %s" % (where, room, there))
        elif name.endswith("_priv.h") and not (room == there or room.startswith(there + "/")):
            found.append("%s: private header of room %s" % (where, there))
        elif name.endswith(".pb-c.h") and room != "graph/onnx":
            found.append(where + ": only graph/onnx sees protobuf's types")
    return found


def files_below(root):
    for folder, subs, names in os.walk(root):
        subs[:] = sorted(s for s in subs if not s.startswith((".", "build")))
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), root)


def main():
    root = sys.argv[1]
    src = os.path.join(root, "src")
    sources = [p for p in files_below(src) if p.endswith((".c", ".h", ".def"))]
    found = [v for p in sources for v in violations_in(src, p)]
    found += ["%s: C++" % p for p in files_below(root) if p.endswith(CPP)]
    if len(sys.argv) > 2:
        libs = subprocess.run(["ldd", sys.argv[2]], stdout=subprocess.PIPE, text=True, check=True).stdout
        found += ["%s links %s" % (sys.argv[2], l.strip()) for l in libs.splitlines() if "libasan" not in libs and ("libstdc++" in l or "libc++" in l)]
    print("\n".join(found) or "%d files, %d rooms: includes point up" % (len(sources), len(ROOMS)))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
