#!/usr/bin/env python3
"""Counts what a run of `meson test` did.

usage: count_tests.py BUILD/meson-logs/testlog.json

A program of Check counts as many tests as its summary line says (those of tests/conformance print one too); any other test is one.
Prints the conformance counts, the failed and the skipped ones with their reason, then the line `N passed, N failed, N skipped`. Exit status 1 if a test failed or none ran.
"""
import json
import re
import sys

COUNTS = re.compile(r"^\S+: \d+ models (?:run|checked), .*$|^  (?:passed as|excluded:).*$", re.M)   # of tests/conformance
SUMMARY = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)


def count(row):
    """(passed, failed, skipped) of one test program."""
    if row["result"] in ("SKIP", "IGNORED"):
        return 0, 0, 1
    ran = [tuple(map(int, m)) for m in SUMMARY.findall(row.get("stdout") or "")]
    checks, bad = sum(r[0] for r in ran), sum(r[1] + r[2] for r in ran)
    if row["result"] in ("OK", "EXPECTEDFAIL"):
        return max(checks, 1), 0, 0
    bad = max(bad, 1)                     # it may also have crashed, timed out or lost memory after its last check
    return max(checks - bad, 0), bad, 0


def main():
    total = [0, 0, 0]
    try:
        with open(sys.argv[1], encoding="utf-8") as f:
            rows = [json.loads(line) for line in f if line.strip()]
    except OSError as e:
        rows = []
        print("no test ran: %s" % e)
    for row in rows:
        passed, failed, skipped = count(row)
        for line in COUNTS.findall(row.get("stdout") or ""):
            print(line)
        total = [total[0] + passed, total[1] + failed, total[2] + skipped]
        last = [line for line in (row.get("stdout") or "").splitlines() if line.strip()][-1:]
        if failed:
            print("FAILED  %s: %s, exit status %s" % (row["name"], row["result"], row["returncode"]))
        elif skipped:
            print("skipped %s: %s" % (row["name"], last[0] if last else "no reason given"))
    print("%d passed, %d failed, %d skipped" % tuple(total))
    return total[1] > 0 or total[0] == 0


if __name__ == "__main__":
    sys.exit(main())
