//! A table: in the page, as CSV with a column for every number, and as Markdown.

use maud::{Markup, html};

/// A table.
pub struct Table {
    /// Name of its files.
    pub name: String,
    /// What it shows.
    pub caption: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column: of texts, or of numbers that CSV gives one by one.
struct Column {
    title: String,
    /// Of numbers: what each is, after the title; the first is the number itself.
    parts: &'static [&'static str],
}

/// What stands in a row's column.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    values: Vec<Option<f64>>,
    class: &'static str,
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Numbers, and how they read together.
    pub fn numbers(text: impl Into<String>, values: Vec<Option<f64>>) -> Self {
        Self { text: text.into(), values, class: "" }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self::text("–")
    }

    /// The same, to be shown in a certain way.
    pub fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }
}

impl Table {
    /// A table without columns and rows.
    pub fn new(name: &str, caption: impl Into<String>) -> Self {
        Self { name: name.to_owned(), caption: caption.into(), columns: Vec::new(), rows: Vec::new() }
    }

    /// With a column of texts.
    pub fn texts(mut self, title: impl Into<String>) -> Self {
        self.columns.push(Column { title: title.into(), parts: &[] });
        self
    }

    /// With a column of numbers.
    pub fn numbers(mut self, title: impl Into<String>, parts: &'static [&'static str]) -> Self {
        self.columns.push(Column { title: title.into(), parts });
        self
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table in the page: it scrolls by itself where the page is too narrow for it.
    pub fn html(&self, folder: &str) -> Markup {
        let class = |column: &Column| if column.parts.is_empty() { "" } else { "number" };
        html! {
            div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                table {
                    caption { (self.caption) }
                    thead { tr { @for c in &self.columns { th scope="col" class=(class(c)) { (c.title) } } } }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                @for (i, (c, cell)) in self.columns.iter().zip(row).enumerate() {
                                    @if i == 0 { th scope="row" class=(cell.class) { (cell.text) } }
                                    @else { td class={ (class(c)) " " (cell.class) } { (cell.text) } }
                                }
                            }
                        }
                    }
                }
            }
            p.files { "Also as " a href={ (self.link(folder, "csv")) } { "CSV" } " and " a href={ (self.link(folder, "md")) } { "Markdown" } " beside this page." }
        }
    }

    /// Where its file is, from the page. What is no plain character in an address is encoded.
    fn link(&self, folder: &str, ending: &str) -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
        format!("{}/{}.{ending}", folder.bytes().map(encode).collect::<String>(), self.name)
    }

    /// The table as CSV (RFC 4180), numbers in full.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let titles = self.columns.iter().flat_map(|c| match c.parts {
            [] => vec![c.title.clone()],
            parts => parts.iter().map(|p| format!("{} {p}", c.title).trim().to_owned()).collect(),
        });
        let row = |row: &Vec<Cell>| {
            let fields = self.columns.iter().zip(row).flat_map(|(c, cell)| match c.parts {
                [] => vec![cell.text.clone()],
                parts => {
                    let value = |i: usize| cell.values.get(i).copied().flatten();
                    (0..parts.len()).map(|i| value(i).map(|v| v.to_string()).unwrap_or_default()).collect()
                }
            });
            fields.collect::<Vec<_>>()
        };
        let records = std::iter::once(titles.collect::<Vec<_>>()).chain(self.rows.iter().map(row));
        // Writing to memory, records of one length: neither can fail.
        records.for_each(|record| drop(writer.write_record(record)));
        String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
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
            Cell::text("a | <b>, \"c\""),
            Cell::numbers("1.5 [1, 2]", vec![Some(1.5), Some(1.0), Some(2.0)]),
        ]);
        table.push(vec![Cell::text("d"), Cell::none()]);
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
}
