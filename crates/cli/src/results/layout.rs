//! The layout of columns as lines that fit into a terminal.

use super::{
    columns::{CORE, Place, ResultColumn},
    words::wrapped,
};

/// Spaces between two columns.
const GAP: usize = 2;

/// Spaces before rows that follow a line of what they have in common.
const INDENT: usize = 2;

/// A table with the layout that was chosen for it.
pub struct TableLayout<'a> {
    /// The columns, in order.
    pub columns: Vec<&'a ResultColumn>,
    /// How many of the first columns are written on lines of their own, above the rows that share their values.
    above: usize,
    /// Whether numbers are written with all of their digits.
    long: bool,
}

impl<'a> TableLayout<'a> {
    /// Lays out columns side by side, whatever their width.
    pub fn plain(columns: Vec<&'a ResultColumn>) -> Self {
        Self { columns, above: 0, long: true }
    }

    /// Lays out columns within a width. It takes the first of these layouts that fits, each with all digits and then
    /// with fewer: all columns; columns without settings that follow from others; more and more of the first settings
    /// on lines above their rows. If none fits, it takes the narrowest.
    pub fn fitting(columns: &[&'a ResultColumn], width: usize) -> Self {
        let needed = needed(columns);
        let settings = needed.iter().filter(|c| c.place == Place::Setting).count();
        let narrower = (0..=settings).map(|above| (needed.as_slice(), above));
        let mut narrowest = Self::plain(columns.to_vec());
        for (columns, above) in std::iter::once((columns, 0)).chain(narrower) {
            for long in [true, false] {
                narrowest = Self { columns: columns.to_vec(), above, long };
                if narrowest.width() <= width {
                    return narrowest;
                }
            }
        }
        narrowest
    }

    fn cells(&self, column: &'a ResultColumn) -> &'a [String] {
        if self.long { &column.cells } else { &column.short }
    }

    fn indent(&self) -> usize {
        if self.above > 0 { INDENT } else { 0 }
    }

    /// The columns that are side by side, with the width of each.
    fn beside(&self) -> impl Iterator<Item = (&'a ResultColumn, usize)> {
        self.columns.iter().skip(self.above).map(|column| {
            let words = column.heading.split(' ').map(str::chars).map(Iterator::count).max();
            let cells = self.cells(column).iter().map(|cell| cell.chars().count()).max();
            (*column, words.max(cells).unwrap_or(0))
        })
    }

    fn width(&self) -> usize {
        let widths: Vec<usize> = self.beside().map(|(_, width)| width).collect();
        self.indent() + widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }

    fn line(&self, cells: impl Iterator<Item = (String, usize, bool)>) -> String {
        let padded = cells.map(|(text, width, right)| match right {
            true => format!("{text:>width$}"),
            false => format!("{text:<width$}"),
        });
        let line = padded.collect::<Vec<_>>().join(&" ".repeat(GAP));
        format!("{}{line}", " ".repeat(self.indent())).trim_end().to_owned() + "\n"
    }

    /// The headings. They are broken at spaces to the width of their columns, and aligned at the bottom.
    fn head(&self) -> String {
        let headings = self.beside().map(|(column, width)| {
            let lines: Vec<String> = wrapped(&column.heading, width).lines().map(str::to_owned).collect();
            (lines, width, column.right)
        });
        let headings: Vec<_> = headings.collect();
        let deepest = headings.iter().map(|(lines, ..)| lines.len()).max().unwrap_or(0);
        let line = |depth: usize| {
            self.line(headings.iter().map(|(lines, width, right)| {
                let text = (depth + lines.len()).checked_sub(deepest).map(|i| lines[i].clone());
                (text.unwrap_or_default(), *width, *right)
            }))
        };
        (0..deepest).map(line).collect()
    }

    /// The line above a row, with its values in the columns that are not side by side.
    fn section(&self, row: usize) -> String {
        let settings =
            self.columns.iter().take(self.above).map(|column| super::words::setting(column, &column.cells[row]));
        settings.collect::<Vec<_>>().join(", ")
    }

    /// The rows in an order in which those that share the line above them come together, where the first of them is.
    pub fn gathered(&self, order: &[usize]) -> Vec<usize> {
        let mut sections: Vec<String> = Vec::new();
        let mut placed: Vec<(usize, usize)> = Vec::with_capacity(order.len());
        for row in order {
            let this = self.section(*row);
            let section = sections.iter().position(|known| *known == this).unwrap_or_else(|| {
                sections.push(this);
                sections.len() - 1
            });
            placed.push((section, *row));
        }
        placed.sort_by_key(|(section, _)| *section);
        placed.into_iter().map(|(_, row)| row).collect()
    }

    /// Writes the table, with its rows in the given order. Lines above rows are broken at `width`.
    pub fn text(&self, order: &[usize], width: usize) -> String {
        let mut out = self.head();
        let mut section = None;
        for row in order {
            let this = self.section(*row);
            if self.above > 0 && section.as_ref() != Some(&this) {
                out += &wrapped(&this, width);
                section = Some(this);
            }
            out += &self.line(self.beside().map(|(c, width)| (self.cells(c)[*row].clone(), width, c.right)));
        }
        out
    }
}

/// The columns without the number of seeds, and without settings that follow from another column.
fn needed<'a>(columns: &[&'a ResultColumn]) -> Vec<&'a ResultColumn> {
    let mut needed = columns.to_vec();
    for column in columns.iter().rev().filter(|c| c.place == Place::Setting) {
        let implies = |other: &&&ResultColumn| {
            other.place == Place::Setting && other.name != column.name && other.determines(column)
        };
        let always = CORE.contains(&column.name.as_str());
        if column.name == "seeds" || !always && needed.iter().any(|other| implies(&other)) {
            needed.retain(|other| other.name != column.name);
        }
    }
    needed
}
