"""The drops of a report on `findings`, as a table of Markdown: python docs/measured/drops.py NAME.tables/results.csv"""

import csv
import sys

MINUS = "\N{MINUS SIGN}"
ATTACKS = {"gradient-canceling": "Gradient Canceling", "tgda": "TGDA", "bilevel-cross-entropy": "bilevel, cross-entropy"}


def number(text, digits=1):
    return f"{float(text):.{digits}f}".replace("-", MINUS)


def interval(row):
    mean, low, high = (row["drop [95 % CI]" + end] for end in ("", " low", " high"))
    return number(mean) + (f" [{number(low)}, {number(high)}]" if low else "")


def limit(row):
    """The limit on pixels, in the order of the table."""
    linf = {row["invert.linf"], row["poison-images.linf"]} - {"null", "–"}
    if linf:
        return f"3 images within {linf.pop()}"
    return "1 unclipped pixels" if row["poison-images.clip"] == "false" else "2 images in `[0, 1]`"


def lines(row):
    """What a result says: group, attack and constraint on features, with the text of its cell."""
    attack, made = row["attack"].split(", ")[:2]
    attack = ATTACKS.get(attack, attack)
    constraint = next(c for c in (row["poison-features.constraint"], row["poison-images.constraint"]) if c != "–")
    without = lambda trained_on: number(float(row["clean"]) - float(row[trained_on]))
    yield ("", "accuracy on clean data", ""), number(row["clean"])
    yield ("", "influence flips", ""), without("influence flips")
    if row["features"]:
        yield ("0 features", attack, constraint), without("features")
    yield (limit(row), f"{made}: {attack}", constraint), interval(row)


def main(file):
    with open(file) as text:
        rows = list(csv.DictReader(text))
    fractions = sorted({row["poison fraction, %"] for row in rows}, key=float)
    columns = [(s, f) for s in dict.fromkeys(row["dataset.downstream.source"] for row in rows) for f in fractions]
    cells = {}
    for row in rows:
        for line, text in lines(row):
            cells.setdefault(line, {})[row["dataset.downstream.source"], row["poison fraction, %"]] = text
    print("| attack | features in |" + "".join(f" {source}: {fraction} % |" for source, fraction in columns))
    print("| --- | --- |" + " --- |" * len(columns))
    for group in sorted({line[0] for line in cells}):
        if group:
            print(f"| *{group[2:]}* | |" + " |" * len(columns))
        for line in sorted(line for line in cells if line[0] == group):
            print(f"| {line[1]} | {line[2]} |" + "".join(f" {cells[line].get(c, '')} |" for c in columns))


main(*sys.argv[1:])
