#!/usr/bin/env python3
"""Makes a C string of a text file.

usage: embed.py NAME INPUT OUTPUT

OUTPUT defines `const char NAME[]` with INPUT's text.
"""
import sys


def main():
    name, source, target = sys.argv[1:]
    with open(source, encoding="ascii") as f:
        lines = f.read().splitlines()
    quoted = ['  "%s\\n"' % line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    with open(target, "w", encoding="ascii") as f:
        f.write("// Made from %s by embed.py.\nextern const char %s[];\nconst char %s[] =\n%s;\n"
                % (source.rsplit("/", 1)[-1], name, name, "\n".join(quoted)))


if __name__ == "__main__":
    main()
