//! safetensors: named arrays, whose names [`super::arrays`] interprets.

use super::arrays::{self, Array, Type, choose};
use super::rows::Rows;
use super::stream::{WHOLE, whole};
use super::{Found, MAX_VALUES, Options, content};
use crate::Result;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

pub(super) fn read(path: &Path, _: &Options, _: f64) -> Result<Found> {
    let (bytes, checksum) = whole(path, WHOLE)?;
    parse(&bytes, &path.display().to_string(), checksum)
}

pub(super) fn parse(bytes: &[u8], place: &str, checksum: String) -> Result<Found> {
    let file = open(bytes, place)?;
    choose(place, &names(&file), checksum, |name| array(&file, place, name))
}

/// Inputs without answers.
pub(super) fn ask(path: &Path) -> Result<Rows> {
    let (bytes, checksum) = whole(path, WHOLE)?;
    let place = path.display().to_string();
    let file = open(&bytes, &place)?;
    let names = names(&file);
    arrays::inputs(array(&file, &place, arrays::lone(&place, &names)?)?, checksum)
}

fn open<'a>(bytes: &'a [u8], place: &str) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| content(place, format!("no whole safetensors file ({e}); copy or save it again")))
}

fn names(file: &SafeTensors) -> Vec<String> {
    file.names().into_iter().map(str::to_string).collect()
}

fn array(file: &SafeTensors, place: &str, name: &str) -> Result<Array> {
    let place = format!("{place}, tensor `{name}`");
    let tensor = file.tensor(name).map_err(|e| content(&place, e.to_string()))?;
    let kind = match tensor.dtype() {
        Dtype::BOOL => Type::Bool,
        Dtype::U8 => Type::Unsigned(1),
        Dtype::U16 => Type::Unsigned(2),
        Dtype::U32 => Type::Unsigned(4),
        Dtype::U64 => Type::Unsigned(8),
        Dtype::I8 => Type::Signed(1),
        Dtype::I16 => Type::Signed(2),
        Dtype::I32 => Type::Signed(4),
        Dtype::I64 => Type::Signed(8),
        Dtype::F32 => Type::Float(4),
        Dtype::F64 => Type::Float(8),
        other => {
            let why = format!("type {other:?}; bool, integers of 8 to 64 bits, F32 and F64 are read");
            return Err(content(place, why));
        }
    };
    if (tensor.data().len() / kind.size()) as u64 > MAX_VALUES {
        return Err(content(place, format!("more than {MAX_VALUES} values are not read")));
    }
    let mut values = kind.empty();
    kind.append(tensor.data(), true, &mut values);
    Ok(Array { place, shape: tensor.shape().to_vec(), values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    #[test]
    fn tensors_are_data_sets_by_their_names() {
        let (x, y) = ([1u8, 2, 3, 4], [0i64, 5].map(i64::to_le_bytes).concat());
        let file = |labels: &[u8], name: &str| {
            let x = TensorView::new(Dtype::U8, vec![2, 2], &x).unwrap();
            let y = TensorView::new(Dtype::I64, vec![labels.len() / 8], labels).unwrap();
            safetensors::serialize([("x", x), (name, y)], None).unwrap()
        };
        let good = file(&y, "labels");
        let Found::Rows(rows, None) = parse(&good, "f", "sum".into()).unwrap() else { panic!() };
        assert_eq!((rows.answers, rows.checksum), (vec![0.0, 5.0], "sum".into()));
        for (bytes, says) in [
            (file(&y, "z"), "`x`"),
            (file(&y[..8], "y"), "1 labels for 2 rows"),
            (good[..good.len() - 1].to_vec(), "no whole safetensors file"),
            (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}".to_vec(), "no whole safetensors file"),
            (Vec::new(), "no whole safetensors file"),
        ] {
            let e = parse(&bytes, "f", String::new()).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }
}
