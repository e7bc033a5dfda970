//! Pre- and postprocessing of a trained network as nodes of its graph: raw rows go in, answers in the units of the data come out.

use crate::{Error, Result};
use nnz_data::read::{Column, ColumnKind, Columns, Encoding, Fill, Unseen};
use nnz_engine::file::Header;
use nnz_onnx::{Attribute, Constant, Graph, Port};
use std::path::Path;

/// Metadata key of the columns of a table, in a graph's file.
const COLUMNS: &str = "nnz.columns";

fn numbers(graph: &mut Graph, shape: &[usize], values: Vec<f32>) -> String {
    let name = format!("prepare.{}", graph.constants.len());
    graph.constants.insert(name.clone(), Constant::floats(shape, values));
    name
}

fn list(graph: &mut Graph, values: &[i64]) -> String {
    let name = format!("prepare.{}", graph.constants.len());
    graph.constants.insert(name.clone(), Constant::ints(&[values.len()], values.to_vec()));
    name
}

/// (x - mean) / deviation.
fn scaled(graph: &mut Graph, x: &str, shape: &[usize], mean: Vec<f32>, deviation: Vec<f32>) -> String {
    let (mean, deviation) = (numbers(graph, shape, mean), numbers(graph, shape, deviation));
    let x = graph.add("Sub", &[x, &mean], &[]);
    graph.add("Div", &[&x, &deviation], &[])
}

/// Puts what stands for a missing cell in the place of NaN; and the input that says so, where there is one.
fn filled(graph: &mut Graph, x: String, column: &Column) -> (String, Option<String>) {
    let value = match (&column.fill, &column.kind) {
        (Some(Fill::Number(v) | Fill::Flag(v)), _) => *v as f32,
        (Some(Fill::Text(text)), ColumnKind::Category { values }) => {
            values.iter().position(|v| v == text).unwrap_or_default() as f32
        }
        _ => return (x, None),
    };
    let (missing, value) = (graph.add("IsNaN", &[&x], &[]), numbers(graph, &[1, 1], vec![value]));
    let y = graph.add("Where", &[&missing, &value, &x], &[]);
    let flag = || graph.add("Cast", &[&missing], &[("to", Attribute::Int(1))]);
    let flag = matches!(column.fill, Some(Fill::Flag(_))).then(flag);
    (y, flag)
}

/// The columns of a table, in order, as inputs.
fn table(graph: &mut Graph, said: &Columns) -> String {
    let n = said.columns.len();
    let moments = |c: &Column| match c.kind {
        ColumnKind::Number { mean, std } if c.fill.is_none() => Some((mean as f32, std as f32)),
        _ => None,
    };
    let all: Option<(Vec<f32>, Vec<f32>)> = said.columns.iter().map(moments).collect();
    if let Some((mean, deviation)) = all {
        return scaled(graph, "x", &[1, n], mean, deviation);
    }
    let mut parts = Vec::with_capacity(n);
    for (i, column) in said.columns.iter().enumerate() {
        let at = list(graph, &[i as i64]);
        let x = graph.add("Gather", &["x", &at], &[("axis", Attribute::Int(1))]);
        let (x, flag) = filled(graph, x, column);
        parts.push(match &column.kind {
            ColumnKind::Number { mean, std } => scaled(graph, &x, &[1, 1], vec![*mean as f32], vec![*std as f32]),
            // Two texts share one input; a text that is neither is half-way between them.
            ColumnKind::Category { values } if values.len() == 2 => match said.unseen {
                Some(Unseen::Category) => {
                    let (zero, half) = (numbers(graph, &[1, 1], vec![0.0]), numbers(graph, &[1, 1], vec![0.5]));
                    let unseen = graph.add("Less", &[&x, &zero], &[]);
                    graph.add("Where", &[&unseen, &half, &x], &[])
                }
                _ => x,
            },
            ColumnKind::Category { values } => {
                let all = numbers(graph, &[1, values.len()], (0..values.len()).map(|i| i as f32).collect());
                let same = graph.add("Equal", &[&x, &all], &[]);
                graph.add("Cast", &[&same], &[("to", Attribute::Int(1))])
            }
        });
        parts.extend(flag);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    graph.add("Concat", &parts, &[("axis", Attribute::Int(1))])
}

/// Converts raw values to inputs of the first layer. For an image they are 0 to 255, for rows of numbers these, for a table the
/// columns in order: a number unchanged, a text as its index, from zero, in the list in the metadata, -1 for one that is not
/// there, a missing cell as NaN.
///
/// # Errors
/// When the model's file is damaged.
pub(super) fn before(graph: &mut Graph, header: &Header, pairs: &[[f32; 2]], path: &Path) -> Result<String> {
    let [c, h, w] = header.model.input;
    let Some(encoding) = &header.encoding else {
        let byte = |v: f32| v * 255.0;
        let (mean, deviation) = pairs.iter().map(|[m, d]| (byte(*m), byte(*d))).unzip();
        return Ok(scaled(graph, "x", &[1, c, 1, 1], mean, deviation));
    };
    graph.metadata.insert(COLUMNS.into(), encoding.to_string());
    let (n, mut x) = match Encoding::from_json(encoding)? {
        Encoding::Table(said) => (said.columns.len(), table(graph, &said)),
        Encoding::Rows(said) if said.scales.len() != c * h * w => {
            let why = format!("{} columns for a network of {} inputs", said.scales.len(), c * h * w);
            return Err(Error::file(path, why));
        }
        Encoding::Rows(said) => {
            let (mean, deviation) = said.scales.iter().map(|[m, d]| (*m as f32, *d as f32)).unzip();
            (said.scales.len(), scaled(graph, "x", &[1, said.scales.len()], mean, deviation))
        }
    };
    graph.inputs[0] = Port { shape: Some(vec![None, Some(n)]), ..graph.inputs[0].clone() };
    let [mean, deviation] = pairs[0];
    if pairs.iter().any(|p| *p != pairs[0]) {
        return Err(Error::file(path, "columns of a table with a mean for each channel; give --raw to leave them out"));
    }
    if [mean, deviation] != [0.0, 1.0] {
        x = scaled(graph, &x, &[1, 1], vec![mean], vec![deviation]);
    }
    let shape = list(graph, &[-1, c as i64, h as i64, w as i64]);
    Ok(graph.add("Reshape", &[&x, &shape], &[]))
}

/// Converts the outputs of the last layer to the units of the targets.
pub(super) fn after(graph: &mut Graph, header: &Header, y: String) -> String {
    if header.scales.is_empty() {
        return y;
    }
    let n = header.scales.len();
    let (mean, deviation) = header.scales.iter().map(|[m, d]| (*m, *d)).unzip();
    let (mean, deviation) = (numbers(graph, &[1, n], mean), numbers(graph, &[1, n], deviation));
    let y = graph.add("Mul", &[&y, &deviation], &[]);
    graph.add("Add", &[&y, &mean], &[])
}
