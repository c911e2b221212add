//! Parquet files with a column of encoded images, as datasets of Hugging Face have them.

use crate::files::picture;
use crate::{MANIFEST, Part, Sample, SetError, SetFiles, manifest};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;
use std::sync::Arc;

const SCHEMA: &str = "message samples {
    required group image { required binary bytes; required binary path (UTF8); }
    required int64 label;
    required boolean poison;
    optional int64 source;
}";

/// Rows whose images are in memory beside the file that is written.
const ROWS: usize = 1024;

/// The file of a split.
fn name(part: &Part<'_>) -> String {
    let split = if part.name == "val" { "validation" } else { part.name };
    format!("{split}-00000-of-00001.parquet")
}

/// A file per split, and the manifest.
pub(crate) fn parquet<'a>(classes: &'a [String], parts: Vec<Part<'a>>) -> SetFiles<'a> {
    let names = parts.iter().map(name).chain([MANIFEST.to_owned()]).collect();
    let make = move |number: usize| match parts.get(number) {
        Some(part) => file(classes, part),
        None => manifest(classes, &parts, &|part, _, _| name(part)),
    };
    SetFiles { names, make: Box::new(make) }
}

fn file(classes: &[String], part: &Part<'_>) -> Result<Vec<u8>, SetError> {
    let failed = |e: ParquetError| SetError::Encode { file: name(part), what: e.to_string() };
    let described = json!({ "info": { "features": {
        "image": { "_type": "Image" },
        "label": { "names": classes, "_type": "ClassLabel" },
        "poison": { "dtype": "bool", "_type": "Value" },
        "source": { "dtype": "int64", "_type": "Value" },
    } } });
    let described = KeyValue::new("huggingface".to_owned(), described.to_string());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![described])).build();
    let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).map_err(failed)?;
    for (group, samples) in part.samples.chunks(ROWS).enumerate() {
        let path = |place: usize| format!("{}/{:06}.png", part.name, group * ROWS + place);
        let images = samples.iter().enumerate().map(|(i, sample)| picture(part, sample, &path(i)));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let paths = (0..samples.len()).map(path).collect();
        rows(&mut writer, samples, images, paths).map_err(failed)?;
    }
    writer.into_inner().map_err(failed)
}

/// Writes a group of rows.
fn rows(
    writer: &mut SerializedFileWriter<Vec<u8>>,
    samples: &[Sample],
    images: Vec<Vec<u8>>,
    paths: Vec<String>,
) -> Result<(), ParquetError> {
    let texts: Vec<ByteArray> = paths.iter().map(|path| ByteArray::from(path.as_str())).collect();
    let images: Vec<ByteArray> = images.into_iter().map(ByteArray::from).collect();
    let labels: Vec<i64> = samples.iter().map(|sample| i64::from(sample.label)).collect();
    let poison: Vec<bool> = samples.iter().map(|sample| sample.poison).collect();
    let sources: Vec<i64> = samples.iter().filter_map(|sample| sample.source.map(i64::from)).collect();
    let known: Vec<i16> = samples.iter().map(|sample| i16::from(sample.source.is_some())).collect();
    let mut group = writer.next_row_group()?;
    let mut number = 0;
    while let Some(mut column) = group.next_column()? {
        match column.untyped() {
            ColumnWriter::ByteArrayColumnWriter(writer) => {
                writer.write_batch(if number == 0 { &images } else { &texts }, None, None)?;
            }
            ColumnWriter::BoolColumnWriter(writer) => {
                writer.write_batch(&poison, None, None)?;
            }
            ColumnWriter::Int64ColumnWriter(writer) if number == 2 => {
                writer.write_batch(&labels, None, None)?;
            }
            ColumnWriter::Int64ColumnWriter(writer) => {
                writer.write_batch(&sources, Some(&known), None)?;
            }
            _ => return Err(ParquetError::General("a column has another type than the schema says".to_owned())),
        }
        column.close()?;
        number += 1;
    }
    group.close().map(|_| ())
}
