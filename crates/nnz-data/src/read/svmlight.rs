//! svmlight, the text format of LIBSVM: `LABEL INDEX:VALUE INDEX:VALUE ... # comment`, indices ascending from 1 (from 0
//! where a 0 occurs).

use super::stream::{RECORD, Stream};
use super::{Options, Part, Parts, bounded, classes_of, content};
use crate::Result;
use nnz_engine::data::{Inputs, Split};
use std::io::{BufRead, BufReader};
use std::path::Path;

pub(super) fn read(path: &Path, _: &Options, _: f64) -> Result<Parts> {
    Ok(Parts::one(rows(Stream::open(path)?, &path.display().to_string())?))
}

pub(super) fn parse(bytes: &[u8], place: &str) -> Result<Part> {
    rows(Stream::new(bytes).map_err(|e| content(place, e.to_string()))?, place)
}

fn rows(stream: Stream, place: &str) -> Result<Part> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut number) = (Vec::new(), 0u64);
    // Compressed rows: start of each in `entries`.
    let (mut labels, mut starts, mut entries) = (Vec::new(), vec![0usize], Vec::<(u32, f32)>::new());
    let (mut lowest, mut highest, mut bytes) = (u32::MAX, 0, 0);
    loop {
        number += 1;
        line.clear();
        let at = |why: &str| content(format!("{place}, line {number}"), why);
        reader.get_mut().allow(RECORD);
        if reader.read_until(b'\n', &mut line).map_err(|e| at(&e.to_string()))? == 0 {
            break;
        }
        bytes += line.len();
        let text = std::str::from_utf8(&line).map_err(|_| at("not UTF-8; is this svmlight?"))?;
        let text = text.split('#').next().unwrap_or_default().trim();
        let mut words = text.split_ascii_whitespace();
        let Some(label) = words.next() else { continue };
        let x: f64 =
            label.parse().map_err(|_| at(&format!("`{label}` is no label; a line is LABEL INDEX:VALUE ...")))?;
        if !x.is_finite() || label.contains(',') {
            return Err(at(&format!("`{label}` is no label of one class")));
        }
        // -1 and +1 and 1.0 are written in many ways and mean one class each.
        labels.push(x.to_string());
        let mut last = None;
        for word in words.filter(|w| !w.starts_with("qid:")) {
            let pair = word.split_once(':').and_then(|(i, v)| Some((i.parse::<u32>().ok()?, v.parse::<f32>().ok()?)));
            let Some((index, value)) = pair.filter(|(_, v)| v.is_finite()) else {
                return Err(at(&format!("`{word}` is no INDEX:VALUE of a whole number and a number")));
            };
            if last.is_some_and(|l| l >= index) {
                return Err(at(&format!("index {index} does not come after {}; indices ascend", last.unwrap_or(0))));
            }
            last = Some(index);
            (lowest, highest) = (lowest.min(index), highest.max(index));
            entries.push((index, value));
        }
        starts.push(entries.len());
    }
    if entries.is_empty() {
        return Err(content(place, "holds no INDEX:VALUE at all"));
    }
    let base = lowest.min(1);
    let width = (highest - base) as usize + 1;
    bounded(place, labels.len(), width)?;
    // A single large index must not make every row long: the zeros filled in are proportional to the bytes read.
    if labels.len() * width > 1 << 20 && labels.len() * width / 1000 > bytes {
        let why = format!(
            "{} rows of {width} values for {} that are given; renumber the indices",
            labels.len(),
            entries.len()
        );
        return Err(content(place, why));
    }
    let mut values = vec![0.0; labels.len() * width];
    for (row, span) in values.chunks_exact_mut(width).zip(starts.windows(2)) {
        entries[span[0]..span[1]].iter().for_each(|&(i, v)| row[(i - base) as usize] = v);
    }
    let (labels, classes) = classes_of(labels.into_iter());
    let checksum = reader.get_ref().checksum();
    let rows = Split::new(Inputs::Floats(values), labels);
    Ok(Part { place: place.into(), image: [1, 1, width], rows, classes, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_with_zeros() {
        let part = parse(b"+1 1:0.5 3:2 # first\n-1 qid:4 2:1\n\n# nothing\n1.0\n", "f").unwrap();
        assert_eq!((part.image, part.rows.labels), ([1, 1, 3], vec![1, 0, 1]));
        assert_eq!(part.classes, ["-1", "1"]);
        assert_eq!(part.rows.inputs, Inputs::Floats(vec![0.5, 0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]));
        assert_eq!(parse(b"1 0:1 2:2\n", "f").unwrap().image, [1, 1, 3]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (bytes, says) in [
            (&b"1 1:1\nx 1:1\n"[..], "line 2: `x` is no label"),
            (b"1 1:a\n", "line 1: `1:a`"),
            (b"1 2:1 1:1\n", "does not come after 2"),
            (b"1 1:inf\n", "line 1"),
            (b"1,2 1:1\n", "line 1"),
            (b"", "holds no"),
            (b"1 4294967295:1\n2 1:1\n", "more than"),
            (b"1 1000000000:1\n", "renumber"),
            (b"1 -1:1\n", "line 1"),
            (b"\xff\n", "not UTF-8"),
        ] {
            let e = parse(bytes, "f").unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }
}
