//! Tables: as HTML in the page, as CSV with one column per number, and as Markdown.

use crate::words;
use maud::{Markup, html};

/// Significant digits of numbers in CSV: more than measurements have, and few enough to hide rounding errors.
pub const DIGITS: usize = 6;

/// A table with typed columns.
pub struct Table {
    /// The name of the files, without ending.
    pub name: String,
    /// The caption.
    pub caption: String,
    columns: Vec<TableColumn>,
    rows: Vec<Vec<TableCell>>,
    /// The value of [`TableColumn::page`] for the next column.
    page: usize,
}

/// A column of texts, or of numbers, which CSV has in columns of their own.
struct TableColumn {
    title: String,
    /// For numbers: what is appended to the title for each of them; the first is the number itself. Empty for texts.
    parts: &'static [&'static str],
    /// Whether the column is in the files alone, and not in the page.
    aside: bool,
    /// The index of the table in the page that has this column: a table with many columns is split.
    page: usize,
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub struct TableCell {
    text: String,
    values: Vec<Option<f64>>,
    class: &'static str,
}

impl TableCell {
    /// A cell with a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A cell with numbers; `text` shows them together.
    pub fn numbers(text: impl Into<String>, values: Vec<Option<f64>>) -> Self {
        Self { text: text.into(), values, class: "" }
    }

    /// The text of an empty cell.
    const NONE: &'static str = "–";

    /// An empty cell.
    pub fn none() -> Self {
        Self::text(Self::NONE)
    }

    /// The cell with a CSS class.
    pub fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }
}

impl Table {
    /// Makes a table without columns and rows.
    pub fn new(name: &str, caption: impl Into<String>) -> Self {
        Self { name: name.to_owned(), caption: caption.into(), columns: Vec::new(), rows: Vec::new(), page: 0 }
    }

    /// Appends a column of texts.
    pub fn texts(self, title: impl Into<String>) -> Self {
        self.column(title.into(), &[], false)
    }

    /// Appends a column of numbers; `parts` is what is appended to the title for each number of a cell.
    pub fn numbers(self, title: impl Into<String>, parts: &'static [&'static str]) -> Self {
        self.column(title.into(), parts, false)
    }

    /// Appends a column of texts that only the files have.
    pub fn aside(self, title: impl Into<String>) -> Self {
        self.column(title.into(), &[], true)
    }

    /// Puts the columns that follow into another table of the page.
    pub fn below(self) -> Self {
        Self { page: self.page + 1, ..self }
    }

    fn column(mut self, title: String, parts: &'static [&'static str], aside: bool) -> Self {
        self.columns.push(TableColumn { title, parts, aside, page: self.page });
        self
    }

    /// Appends a row.
    pub fn push(&mut self, row: Vec<TableCell>) {
        self.rows.push(row);
    }

    /// Whether the table has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as HTML; `folder` is the folder of its files. Columns with the same text in all rows become one
    /// sentence. On a narrow page the table scrolls by itself, and on a phone every row is shown as a list.
    pub fn html(&self, folder: &str) -> Markup {
        let class = |column: &TableColumn| if column.parts.is_empty() { "" } else { "number" };
        let (same, shown): (Vec<usize>, Vec<usize>) =
            (0..self.columns.len()).filter(|i| !self.columns[*i].aside).partition(|i| self.same(*i));
        let said: Vec<(&str, &str)> = same
            .iter()
            .map(|i| (self.columns[*i].title.as_str(), self.rows[0][*i].text.as_str()))
            .filter(|(_, text)| !text.is_empty() && *text != TableCell::NONE)
            .collect();
        // The first column names the row, and is in all tables.
        let page = |page| shown.iter().copied().filter(move |i| *i == 0 || self.columns[*i].page == page);
        let pages = (0..=self.page).map(|p| page(p).collect::<Vec<_>>()).filter(|columns| columns.len() > 1);
        html! {
            @if !said.is_empty() {
                p.same { "All rows have the same values of these columns: " @for (i, (title, text)) in said.iter().enumerate() { @if i > 0 { "; " } (title) " " strong { (text) } } "." }
            }
            @for (n, columns) in pages.enumerate() {
                div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                    table {
                        @if n == 0 { caption { (self.caption) } }
                        thead { tr { @for c in columns.iter().map(|i| &self.columns[*i]) { th scope="col" class=(class(c)) { (c.title) } } } }
                        tbody {
                            @for row in &self.rows {
                                tr {
                                    @for i in &columns {
                                        @let (c, cell) = (&self.columns[*i], &row[*i]);
                                        @if *i == 0 { th scope="row" class=(cell.class) { (cell.text) } }
                                        @else { td data-label=(c.title) class={ (class(c)) " " (cell.class) } { (cell.text) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            p.files { "This table is also available as " a href={ (self.link(folder, "csv")) } { "CSV" } " and " a href={ (self.link(folder, "md")) } { "Markdown" } "." }
        }
    }

    /// Whether all rows have the same text in a column. False for the first column, and if there are fewer than two
    /// rows.
    fn same(&self, column: usize) -> bool {
        let texts = || self.rows.iter().map(|row| &row[column].text);
        column > 0 && self.rows.len() > 1 && texts().all(|text| text == &self.rows[0][column].text)
    }

    /// The address of a file of the table, relative to the page.
    pub fn link(&self, folder: &str, ending: &str) -> String {
        format!("{}/{}.{ending}", words::address(folder), self.name)
    }

    /// The table as CSV (RFC 4180); numbers have [`DIGITS`] significant digits.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let titles = self.columns.iter().flat_map(|c| match c.parts {
            [] => vec![c.title.clone()],
            parts => parts.iter().map(|p| format!("{} {p}", c.title).trim().to_owned()).collect(),
        });
        let row = |row: &Vec<TableCell>| {
            let fields = self.columns.iter().zip(row).flat_map(|(c, cell)| match c.parts {
                [] => vec![cell.text.clone()],
                parts => {
                    let value = |i: usize| cell.values.get(i).copied().flatten();
                    (0..parts.len()).map(|i| value(i).map(|v| words::short(v, DIGITS)).unwrap_or_default()).collect()
                }
            });
            fields.collect::<Vec<_>>()
        };
        let records = std::iter::once(titles.collect::<Vec<_>>()).chain(self.rows.iter().map(row));
        records.for_each(|record| writer.write_record(record).expect("records of one length, written to memory"));
        let bytes = writer.into_inner().expect("memory can be written to");
        String::from_utf8(bytes).expect("fields are text")
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = format!("{}\n\n", escape(&self.caption));
        out += &line(self.columns.iter().map(|c| escape(&c.title)).collect());
        out += &line(self.columns.iter().map(|c| if c.parts.is_empty() { "---" } else { "---:" }.to_owned()).collect());
        for row in &self.rows {
            out += &line(row.iter().map(|cell| escape(&cell.text)).collect());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("t", "A table").texts("attack").numbers("drop, points", &["", "low", "high"]);
        table.push(vec![
            TableCell::text("a | <b>, \"c\""),
            TableCell::numbers("1.5 [1, 2]", vec![Some(1.5), Some(1.0), Some(2.0)]),
        ]);
        table.push(vec![TableCell::text("d"), TableCell::none()]);
        table
    }

    #[test]
    fn csv_has_a_column_for_every_number() {
        assert_eq!(
            table().csv(),
            "attack,\"drop, points\",\"drop, points low\",\"drop, points high\"\n\"a | <b>, \"\"c\"\"\",1.5,1,2\nd,,,\n"
        );
    }

    #[test]
    fn markdown_and_html_escape() {
        assert_eq!(
            table().markdown(),
            "A table\n\n| attack | drop, points |\n| --- | ---: |\n| a \\| &lt;b>, \"c\" | 1.5 [1, 2] |\n| d | – |\n"
        );
        let html = table().html("a b.tables").into_string();
        assert!(html.contains("href=\"a%20b.tables/t.csv\""), "{html}");
        assert!(html.contains("a | &lt;b&gt;, &quot;c&quot;") && !html.contains("<b>"), "{html}");
    }

    #[test]
    fn csv_has_no_noise_of_rounding() {
        let mut table = Table::new("t", "").texts("a").numbers("b", &["", "std"]);
        table
            .push(vec![TableCell::text("x"), TableCell::numbers("", vec![Some(9.599999999999998), Some(123456789.0)])]);
        assert_eq!(table.csv(), "a,b,b std\nx,9.6,123456789\n");
    }

    #[test]
    fn the_page_says_once_what_is_the_same_and_leaves_some_to_the_files() {
        let mut table = Table::new("t", "").texts("attack").texts("victim").numbers("drop", &[""]);
        table = table.below().texts("none").numbers("PSNR", &[""]).aside("keys");
        for (attack, drop, key) in [("x", 1.5, "k1"), ("y", 2.5, "k2")] {
            let number = |v: f64| TableCell::numbers(v.to_string(), vec![Some(v)]);
            let cells = vec![
                TableCell::text(attack),
                TableCell::text("linear"),
                number(drop),
                TableCell::none(),
                number(drop + 10.0),
            ];
            table.push(cells.into_iter().chain([TableCell::text(key)]).collect());
        }
        let html = table.html("f").into_string();
        assert!(
            html.contains("All rows have the same values of these columns: victim <strong>linear</strong>.</p>"),
            "{html}"
        );
        assert_eq!((html.matches("<table>").count(), html.matches("<th scope=\"row\"").count()), (2, 4), "{html}");
        assert!(html.contains("<td data-label=\"PSNR\" class=\"number \">11.5</td>"), "{html}");
        assert!(!html.contains("k1") && !html.contains("<th scope=\"col\" class=\"\">victim"), "{html}");
        assert_eq!(table.csv(), "attack,victim,drop,none,PSNR,keys\nx,linear,1.5,–,11.5,k1\ny,linear,2.5,–,12.5,k2\n");
        assert!(table.markdown().contains("| x | linear | 1.5 | – | 11.5 | k1 |"), "{}", table.markdown());
    }
}
