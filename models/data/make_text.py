#!/usr/bin/env python3
"""Writes train.txt and val.txt: the New Testament in the King James translation, one verse per line.

usage: make_text.py [FOLDER]

Reads the text through the `bible` program of Debian's package bible-kjv (data: bible-kjv-text). A chapter opens with a line
that names it. Every tenth chapter is kept for validation, so both files hold all kinds of text (gospels, letters, visions).
"""
import os
import re
import subprocess
import sys


def chapters():
    """Yields (title, verses) in the order of the book."""
    text = subprocess.run(["bible", "-f", "Mat1:1-Rev22:21"], check=True, stdout=subprocess.PIPE).stdout.decode("ascii")
    title, verses = None, []
    for line in text.splitlines():
        m = re.match(r"(\w+?)(\d+):(\d+) (.*)$", line)
        if not m:
            raise SystemExit("make_text.py: no verse: %r" % line)
        here = "%s %s" % (m[1], m[2])
        if here != title:
            if verses:
                yield title, verses
            title, verses = here, []
        verses.append(m[4].strip())
    yield title, verses


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    parts = {"train.txt": [], "val.txt": []}
    for i, (title, verses) in enumerate(chapters()):
        parts["val.txt" if i % 10 == 9 else "train.txt"].append(title + "\n" + "\n".join(verses) + "\n")
    for name, texts in parts.items():
        with open(os.path.join(folder, name), "w", newline="\n") as f:
            f.write("\n".join(texts))


if __name__ == "__main__":
    main()
