"""The certified accuracy of every victim of a report, in %, mean over seeds, by the number of changed samples:

    python docs/measured/certified.py reports/certificates.tables/rows.csv 0 1 5 10 20 80
"""

import csv
import sys


def main(file, *numbers):
    victims = {}
    with open(file) as text:
        for row in csv.DictReader(text):
            if row["certificate.accuracy"]:
                victim = ", ".join(v for k, v in row.items() if k.startswith("params.victim.") and v)
                # Branches that differ in the attack alone have the same victim on clean data.
                victims.setdefault(victim, {})[row["seed"]] = row["certificate.accuracy"].split()
    print("| victim | " + " | ".join(numbers) + " |")
    print("| --- " * (1 + len(numbers)) + "|")
    for victim, seeds in victims.items():
        at = lambda n: sum(float(curve[n]) if n < len(curve) else 0 for curve in seeds.values()) / len(seeds)
        print(f"| {victim} | " + " | ".join(f"{100 * at(int(n)):.1f}" for n in numbers) + " |")


main(*sys.argv[1:])
