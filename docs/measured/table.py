"""A table of Markdown from the results of a report: a line for each value of --rows, and for each value of --across a
column for each of --cells. Names of columns are those of results.csv; a name may stand for one that begins with it.

    python docs/measured/table.py reports/beta.tables/results.csv --rows invert.refine invert.beta \\
        --across dataset.downstream.source --cells drop PSNR outliers
"""

import argparse
import csv
from sys import exit

MINUS = "\N{MINUS SIGN}"


def number(text, digits):
    return f"{float(text):.{digits}f}".replace("-", MINUS)


def named(rows, name):
    """The column of this name, or the first that begins with it."""
    found = next((c for c in rows[0] if c == name), None) or next((c for c in rows[0] if c.startswith(name)), None)
    return found or exit(f"no column {name}; expected one of {', '.join(rows[0])}")


def cell(row, column, digits):
    """The value, with its interval if it has one."""
    text, low, high = (row.get(column + end, "") for end in ("", " low", " high"))
    try:
        return number(text, digits) + (f" [{number(low, digits)}, {number(high, digits)}]" if low else "")
    except ValueError:
        return text


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("file")
    parse.add_argument("--rows", nargs="+", required=True)
    parse.add_argument("--across", nargs="*", default=[])
    parse.add_argument("--cells", nargs="+", required=True)
    parse.add_argument("--only", nargs="*", default=[], metavar="COLUMN=VALUE", help="leave out other results")
    parse.add_argument("--digits", type=int, default=1)
    given = parse.parse_args()
    try:
        with open(given.file) as text:
            rows = list(csv.DictReader(text)) or exit(f"{given.file} has no results")
    except OSError as error:
        exit(f"cannot read {given.file}: {error.strerror}")
    for condition in given.only:
        column, equals, value = condition.rpartition("=")
        equals or exit(f"--only {condition}: expected COLUMN=VALUE")
        rows = [row for row in rows if row[named(rows, column)] == value] or exit(f"no result has {condition}")
    down, across, cells = ([named(rows, name) for name in names] for names in (given.rows, given.across, given.cells))
    place = lambda row, columns: tuple(row[column] for column in columns)
    groups = list(dict.fromkeys(place(row, across) for row in rows))
    heads = given.rows + [", ".join((*group, name)) for group in groups for name in given.cells]
    print("| " + " | ".join(heads) + " |")
    print("| --- " * len(heads) + "|")
    table = {}
    for row in rows:
        if table.setdefault(place(row, down), {}).setdefault(place(row, across), row) is not row:
            exit(f"two results have the same {' and '.join(down + across)}: {row['attack']}; name more columns")
    for line, found in table.items():
        values = [cell(found[g], c, given.digits) if g in found else "" for g in groups for c in cells]
        print("| " + " | ".join([*line, *values]) + " |")


main()
