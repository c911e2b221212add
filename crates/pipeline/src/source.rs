//! The text of a spec and of the specs that it extends: read, merged, and pointed into.
//!
//! ```toml
//! extends = ["base/cifar10-simclr.toml", "base/paper.toml"]    # or one path
//! ```
//!
//! A path is relative to the file that says it. Files are merged one after the other, the extending one last:
//!
//! | what the extending file has | what becomes of what it extends |
//! | --- | --- |
//! | a table | The two are merged key by key, at any depth. |
//! | a table of another `method`, `attack` or `kind` | The table is replaced as a whole. |
//! | an array of tables, a list, or any other value | The value is replaced. |
//!
//! A file that is reached in several ways counts once, where it is reached first. All of this comes before profiles
//! and overrides, and nothing after it can tell a merged spec from one that was written in one file.

use crate::{SpecError, spec::quoted, telling::TAGS};
use hemlock_stage::{MESSAGE, VALUE, open_file, short};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// The field that names the specs that a spec extends.
pub(crate) const EXTENDS: &str = "extends";
/// Bytes of the longest spec that is read, together with all that it extends.
const LONGEST: usize = 1 << 20;
/// Files that a spec extends at most, directly or through others.
const MOST_EXTENDED: usize = 16;

/// The files that a spec consists of, and in which file every part of it was set.
#[derive(Debug)]
pub(crate) struct SpecSource {
    /// The files in the order in which they were merged. The spec itself is the last.
    files: Vec<File>,
    origin: SetIn,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    text: String,
}

/// The number of the file that set a value last, and the same for the fields of a table.
#[derive(Debug, Default)]
struct SetIn {
    file: usize,
    fields: BTreeMap<String, SetIn>,
}

impl SetIn {
    fn of(value: &Value, file: usize) -> Self {
        let fields = value.as_object().into_iter().flatten();
        Self { file, fields: fields.map(|(key, value)| (key.clone(), Self::of(value, file))).collect() }
    }
}

impl SpecSource {
    /// Reads a spec and all that it extends, and returns the merged table, too.
    ///
    /// # Errors
    /// - A file cannot be read, is not valid TOML, or has a value that no spec can have.
    /// - The files have more than 1 MiB together.
    /// - The spec extends itself, or extends more than [`MOST_EXTENDED`] files.
    pub(crate) fn load(path: &Path) -> Result<(Self, Map<String, Value>), SpecError> {
        let file = File { path: path.to_owned(), text: String::new() };
        match read(path, LONGEST) {
            Ok(Some(text)) => Self::parse(path, &text),
            Ok(None) => Err(file.error(&[], format!("is no pipeline spec: it has more than {LONGEST} bytes"))),
            Err(e) => Err(file.error(&[], format!("cannot read the pipeline spec: {e}"))),
        }
    }

    /// Reads all that the text of a spec extends. `path` names the text, and relative paths start at its folder.
    ///
    /// # Errors
    /// The conditions are those of [`SpecSource::load`].
    pub(crate) fn parse(path: &Path, text: &str) -> Result<(Self, Map<String, Value>), SpecError> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let mut merging = Merging { left: LONGEST.saturating_sub(text.len()), ..Merging::default() };
        merging.add(file)?;
        Ok((Self { files: merging.files, origin: merging.origin }, merging.merged))
    }

    /// Path of the spec's own file.
    pub(crate) fn path(&self) -> &Path {
        self.files.last().map_or(Path::new(""), |file| &file.path)
    }

    /// Makes an error about the value at a path. It points to the file that set the value, or the innermost table
    /// around it that is set in any file.
    pub(crate) fn error(&self, at: &[&str], message: impl Into<String>) -> SpecError {
        let mut origin = &self.origin;
        for key in at {
            match origin.fields.get(*key) {
                Some(inner) => origin = inner,
                None => break,
            }
        }
        self.files[origin.file].error(at, message)
    }
}

impl File {
    fn error(&self, at: &[&str], message: impl Into<String>) -> SpecError {
        let message = short(&message.into(), MESSAGE).into_owned();
        SpecError { path: self.path.clone(), line: self.line(at), message, suggestion: None }
    }

    /// Line of the innermost part of a path that is in the text.
    fn line(&self, path: &[&str]) -> Option<usize> {
        fn find(table: &DeTable, path: &[&str]) -> Option<usize> {
            let (first, rest) = path.split_first()?;
            let (key, value) = table.iter().find(|(k, _)| k.get_ref() == first)?;
            let deeper = match value.get_ref() {
                DeValue::Table(t) => find(t, rest),
                DeValue::Array(list) => list.iter().find_map(|v| find(v.get_ref().as_table()?, rest)),
                _ => None,
            };
            Some(deeper.unwrap_or(key.span().start))
        }
        let table = DeTable::parse(&self.text).ok()?;
        find(table.get_ref(), path).map(|offset| line_of(&self.text, offset))
    }

    fn table(&self) -> Result<Map<String, Value>, SpecError> {
        let table: toml::Table = toml::from_str(&self.text).map_err(|e| SpecError {
            line: e.span().map(|s| line_of(&self.text, s.start)),
            ..self.error(&[], e.message())
        })?;
        fields(table, &mut Vec::new()).map_err(|(path, message)| {
            let at: Vec<&str> = path.iter().map(String::as_str).collect();
            self.error(&at, format!("`{}` {message}", short(&path.join("."), VALUE)))
        })
    }

    /// Removes the paths that the file extends from its table, and returns them as they are written.
    fn extended(&self, table: &mut Map<String, Value>) -> Result<Vec<String>, SpecError> {
        let paths = match table.remove(EXTENDS) {
            None => return Ok(Vec::new()),
            Some(Value::Array(paths)) => paths,
            Some(path) => vec![path],
        };
        let text = |path: Value| match path {
            Value::String(path) if !path.is_empty() => Ok(path),
            other => {
                let expected = "expected the path of a spec, such as \"base/cifar10-simclr.toml\", or a list of paths";
                Err(self.error(&[EXTENDS], format!("`{EXTENDS}` has {}; {expected}", quoted(&other))))
            }
        };
        paths.into_iter().map(text).collect()
    }
}

/// The state of reading and merging. A file is merged after all files that it extends.
#[derive(Default)]
struct Merging {
    files: Vec<File>,
    merged: Map<String, Value>,
    origin: SetIn,
    /// The way from the spec to the file that is being read. Each file has its name, and its canonical path, which
    /// identifies it.
    chain: Vec<(String, PathBuf)>,
    /// Canonical paths of all files that were read.
    known: HashSet<PathBuf>,
    /// Bytes of text that may still be read.
    left: usize,
}

impl Merging {
    fn add(&mut self, file: File) -> Result<(), SpecError> {
        let itself = fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
        self.known.insert(itself.clone());
        self.chain.push((file.path.display().to_string(), itself));
        let mut table = file.table()?;
        for path in file.extended(&mut table)? {
            if let Some(extended) = self.open(&file, &path)? {
                self.add(extended)?;
            }
        }
        self.chain.pop();
        merge(&mut self.merged, &mut self.origin, table, self.files.len());
        self.files.push(file);
        Ok(())
    }

    /// Reads a file that `by` extends. Returns `None` if it was read before.
    fn open(&mut self, by: &File, path: &str) -> Result<Option<File>, SpecError> {
        let refused = |why: String| by.error(&[EXTENDS], format!("`{EXTENDS}` names {}, {why}", short(path, VALUE)));
        let place = by.path.parent().unwrap_or(Path::new("")).join(path);
        let name = place.display().to_string();
        let unread = |e: io::Error| refused(format!("and {} cannot be read: {e}", short(&name, VALUE)));
        let itself = fs::canonicalize(&place).map_err(unread)?;
        let way = |from: usize| {
            let names = self.chain[from..].iter().map(|(name, _)| name).chain([&name]);
            names.map(|name| short(name, VALUE)).collect::<Vec<_>>().join(" -> ")
        };
        if let Some(first) = self.chain.iter().position(|(_, known)| *known == itself) {
            return Err(refused(format!("and so a spec extends itself: {}", way(first))));
        }
        if self.known.contains(&itself) {
            return Ok(None);
        }
        if self.known.len() > MOST_EXTENDED {
            return Err(refused(format!("and a spec extends at most {MOST_EXTENDED} files: {}", way(0))));
        }
        let text = read(&place, self.left).map_err(unread)?;
        let text = text.ok_or_else(|| refused(format!("with which the spec has more than {LONGEST} bytes")))?;
        self.left -= text.len();
        Ok(Some(File { path: place, text }))
    }
}

/// Reads the text of a file. Returns `None` if the file has more than `most` bytes.
fn read(path: &Path, most: usize) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Ok(None);
    }
    String::from_utf8(bytes).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Merges the table of a file over what the files before it set.
fn merge(below: &mut Map<String, Value>, origin: &mut SetIn, above: Map<String, Value>, file: usize) {
    origin.file = file;
    for (key, value) in above {
        if let (Some(Value::Object(old)), Some(origin), Value::Object(new)) =
            (below.get_mut(&key), origin.fields.get_mut(&key), &value)
            && !is_about_another(old, new)
        {
            merge(old, origin, new.clone(), file);
        } else {
            origin.fields.insert(key.clone(), SetIn::of(&value, file));
            below.insert(key, value);
        }
    }
}

/// Whether two tables have different tags, and so are about different things.
fn is_about_another(old: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    TAGS.iter().any(|tag| matches!((old.get(*tag), new.get(*tag)), (Some(old), Some(new)) if old != new))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

/// A path, and why a spec cannot have the value that is there.
type Unfit = (Vec<String>, String);

/// Converts TOML to JSON. Dates and numbers that are not finite are refused. -0 becomes 0, which is the same parameter.
pub(crate) fn to_json(value: toml::Value, path: &mut Vec<String>) -> Result<Value, Unfit> {
    Ok(match value {
        toml::Value::String(s) => Value::String(s),
        toml::Value::Integer(i) => i.into(),
        toml::Value::Boolean(b) => Value::Bool(b),
        toml::Value::Float(x) if x.is_finite() => (x + 0.0).into(),
        toml::Value::Float(x) => return Err((path.clone(), format!("is {x}; expected a finite number"))),
        toml::Value::Datetime(d) => return Err((path.clone(), format!("is the date {d}; expected no date"))),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(|v| to_json(v, path)).collect::<Result<_, _>>()?),
        toml::Value::Table(table) => Value::Object(fields(table, path)?),
    })
}

fn fields(table: toml::Table, path: &mut Vec<String>) -> Result<Map<String, Value>, Unfit> {
    let mut object = Map::new();
    for (key, value) in table {
        path.push(key.clone());
        object.insert(key, to_json(value, path)?);
        path.pop();
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tempfile::TempDir;

    /// Writes files into a new folder.
    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    /// The merged table of the file `a.toml`, or the error message without the folder's name.
    fn merged(files: &[(&str, &str)]) -> Result<Value, String> {
        let folder = folder(files);
        let said = |e: SpecError| e.to_string().replace(&format!("{}/", folder.path().display()), "");
        SpecSource::load(&folder.path().join("a.toml")).map(|(_, table)| Value::Object(table)).map_err(said)
    }

    #[test]
    fn tables_are_merged_key_by_key_and_all_else_is_replaced() {
        let base = "description = 'base'\nseeds = [0, 1, 2]\n\
            [dataset.downstream]\nsource = 'cifar10'\ntrain = 10\n\
            [[invert]]\nbeta = 1\n[[invert]]\nbeta = 2\n\
            [decoder]\nwidth = [8, 16]\n\
            [profiles.paper.decoder]\nepochs = 5\nbatch = 32\n\
            [profiles.paper.invert]\nsteps = 7\n";
        let own = "extends = 'base.toml'\nseeds = [3]\n\
            [dataset.downstream]\nsource = { kind = 'cifar100' }\n[dataset.pretrain]\nsource = 'cifar10'\n\
            [[invert]]\nsteps = 3\n\
            [decoder]\nwidth = [4]\nbatch = 1\n\
            [profiles.paper.decoder]\nepochs = 100\n\
            [[profiles.paper.invert]]\nbeta = 0\n";
        let expected = json!({
            "description": "base", "seeds": [3],
            "dataset": {
                "downstream": { "source": { "kind": "cifar100" }, "train": 10 }, "pretrain": { "source": "cifar10" }
            },
            "invert": [{ "steps": 3 }],
            "decoder": { "width": [4], "batch": 1 },
            "profiles": { "paper": { "decoder": { "epochs": 100, "batch": 32 }, "invert": [{ "beta": 0 }] } },
        });
        assert_eq!(merged(&[("a.toml", own), ("base.toml", base)]).unwrap(), expected);
    }

    #[test]
    fn a_table_about_another_thing_is_replaced_as_a_whole() {
        for tag in TAGS {
            let base = format!("[stage]\n{tag} = 'one'\nepochs = 5\nsource = {{ {tag} = 'one', size = 8 }}");
            let over = |text: &str| {
                let own = format!("extends = 'base.toml'\n[stage]\n{text}");
                merged(&[("a.toml", &own), ("base.toml", &base)]).unwrap()["stage"].clone()
            };
            let source = json!({ tag: "one", "size": 8 });
            assert_eq!(over("batch = 2"), json!({ tag: "one", "epochs": 5, "batch": 2, "source": source }));
            assert_eq!(over(&format!("{tag} = 'one'")), json!({ tag: "one", "epochs": 5, "source": source }));
            assert_eq!(over(&format!("{tag} = 'two'\nbatch = 2")), json!({ tag: "two", "batch": 2 }));
            assert_eq!(over(&format!("{tag} = ['one', 'two']")), json!({ tag: ["one", "two"] }));
            let inner = over(&format!("source = {{ {tag} = 'two' }}"));
            assert_eq!(inner, json!({ tag: "one", "epochs": 5, "source": { tag: "two" } }));
        }
    }

    #[test]
    fn later_ones_win_and_every_file_counts_once() {
        let files = [
            ("a.toml", "extends = ['x/b.toml', 'x/c.toml']\na = 'a'"),
            ("x/b.toml", "extends = 'd.toml'\na = 'b'\nb = 'b'\nc = 'b'\nd = 'b'"),
            ("x/c.toml", "extends = './../x/d.toml'\na = 'c'\nc = 'c'"),
            ("x/d.toml", "extends = []\na = 'd'\nb = 'd'\nc = 'd'\nd = 'd'\ne = 'd'"),
        ];
        assert_eq!(merged(&files).unwrap(), json!({ "a": "a", "b": "b", "c": "c", "d": "b", "e": "d" }));
    }

    #[test]
    fn what_cannot_be_extended_is_named_with_the_line_that_names_it() {
        let said = |files: &[(&str, &str)]| merged(files).unwrap_err();
        for (value, quoted) in [("3", "3"), ("''", "\"\""), ("['b.toml', 1]", "1"), ("{ a = 1 }", "{\"a\":1}")] {
            let own = format!("# x\nextends = {value}");
            let expected = format!(
                "a.toml:2: `extends` has {quoted}; expected the path of a spec, such as \"base/cifar10-simclr.toml\", \
                 or a list of paths"
            );
            assert_eq!(said(&[("a.toml", &own), ("b.toml", "")]), expected);
        }
        assert_eq!(
            said(&[("a.toml", "extends = 'x/b.toml'"), ("x/b.toml", "\n\nextends = 'c.toml'")]),
            "x/b.toml:3: `extends` names c.toml, and x/c.toml cannot be read: No such file or directory (os error 2)"
        );
        assert_eq!(
            said(&[("a.toml", "extends = 'x'"), ("x/b.toml", "")]),
            "a.toml:1: `extends` names x, and x cannot be read: it is a folder; expected a file"
        );
        assert_eq!(
            said(&[
                ("a.toml", "extends = 'b.toml'"),
                ("b.toml", "extends = 'c.toml'"),
                ("c.toml", "extends = 'b.toml'")
            ]),
            "c.toml:1: `extends` names b.toml, and so a spec extends itself: b.toml -> c.toml -> b.toml"
        );
        assert_eq!(
            said(&[("a.toml", "extends = 'a.toml'")]),
            "a.toml:1: `extends` names a.toml, and so a spec extends itself: a.toml -> a.toml"
        );
        assert_eq!(
            said(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "seeds = [0]\nradius = inf")]),
            "b.toml:2: `radius` is inf; expected a finite number"
        );
        assert!(said(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "\nradius =")]).starts_with("b.toml:2: "));
    }

    #[test]
    fn a_chain_and_the_text_of_a_spec_have_an_end() {
        let chain = |n: usize| {
            let name = |i: usize| if i == 0 { "a.toml".to_owned() } else { format!("{i}.toml") };
            let link = |i: usize| if i == n { String::new() } else { format!("extends = '{}.toml'", i + 1) };
            let files: Vec<_> = (0..=n).map(|i| (name(i), link(i))).collect();
            let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            merged(&files)
        };
        assert_eq!(chain(MOST_EXTENDED).unwrap(), json!({}));
        let message = chain(MOST_EXTENDED + 1).unwrap_err();
        let begins = "16.toml:1: `extends` names 17.toml, and a spec extends at most 16 files: a.toml -> 1.toml -> ";
        assert!(message.starts_with(begins) && message.ends_with(" -> 16.toml -> 17.toml"), "{message}");

        let own = "extends = ['b.toml', 'b.toml']\n";
        let with = |bytes: usize| merged(&[("a.toml", own), ("b.toml", &format!("#{}", "ä".repeat(bytes / 2)))]);
        assert_eq!(with(LONGEST - own.len() - 1).unwrap(), json!({}));
        assert_eq!(
            with(LONGEST - own.len() + 1).unwrap_err(),
            "a.toml:1: `extends` names b.toml, with which the spec has more than 1048576 bytes"
        );
    }
}
