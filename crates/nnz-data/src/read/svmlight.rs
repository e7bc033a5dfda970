//! svmlight, the text format of LIBSVM: `LABEL INDEX:VALUE INDEX:VALUE ... # comment`, indices ascending from 1, or from 0
//! where a 0 occurs in the file or in the one read with it.

use super::rows::{Rows, Sparse, Values};
use super::stream::{RECORD, Stream};
use super::{Found, Options, content};
use crate::Result;
use std::io::{BufRead, BufReader};
use std::path::Path;

pub(super) fn read(path: &Path, _: &Options, _: f64) -> Result<Found> {
    Ok(Found::Rows(ask(path)?, None))
}

/// Rows with their answers.
pub(super) fn ask(path: &Path) -> Result<Rows> {
    rows(Stream::open(path)?, &path.display().to_string())
}

pub(super) fn parse(bytes: &[u8], place: &str) -> Result<Rows> {
    rows(Stream::new(bytes).map_err(|e| content(place, e.to_string()))?, place)
}

fn rows(stream: Stream, place: &str) -> Result<Rows> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut number) = (Vec::new(), 0u64);
    let (mut answers, mut bytes) = (Vec::new(), 0);
    let (mut starts, mut entries, mut lines) = (vec![0], Vec::new(), Vec::new());
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
        if !(x as f32).is_finite() || label.contains(',') {
            return Err(at(&format!("`{label}` is no label of one class")));
        }
        // -1 and +1 and 1.0 are written in many ways and mean one class each.
        answers.push(x);
        let mut last = None;
        for word in words.filter(|w| !w.starts_with("qid:")) {
            let pair = word.split_once(':').and_then(|(i, v)| Some((i.parse::<u32>().ok()?, v.parse::<f64>().ok()?)));
            let Some((index, value)) = pair.filter(|(_, v)| (*v as f32).is_finite()) else {
                return Err(at(&format!("`{word}` is no INDEX:VALUE of a whole number and a number")));
            };
            if last.is_some_and(|l| l >= index) {
                return Err(at(&format!("index {index} does not come after {}; indices ascend", last.unwrap_or(0))));
            }
            last = Some(index);
            entries.push((index, value));
        }
        starts.push(entries.len());
        lines.push(number);
    }
    if answers.is_empty() {
        return Err(content(place, "holds no INDEX:VALUE at all"));
    }
    let values = Values::Sparse(Sparse { starts, entries, lines, bytes, width: None });
    let checksum = reader.get_ref().checksum();
    Ok(Rows { place: place.into(), image: [1, 1, 0], values, answers, names: Vec::new(), checksum })
}

#[cfg(test)]
mod tests {
    use super::super::rows::{As, encode};
    use super::super::{Options, Parts};
    use super::*;
    use nnz_engine::data::Inputs;

    fn read(bytes: &[u8], how: As) -> Result<Parts> {
        encode(parse(bytes, "f")?, None, &Options::default(), how)
    }

    #[test]
    fn rows_are_filled_with_zeros() {
        let part = read(b"+1 1:0.5 3:2 # first\n-1 qid:4 2:1\n\n# nothing\n1.0\n", As::Unchanged).unwrap().train;
        assert_eq!((part.image, part.rows.labels), ([1, 1, 3], vec![1, 0, 1]));
        assert_eq!(part.classes, ["-1", "1"]);
        assert_eq!(part.rows.inputs, Inputs::Floats(vec![0.5, 0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]));
        assert_eq!(read(b"1 0:1 2:2\n", As::Unchanged).unwrap().train.image, [1, 1, 3]);
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
            (b"1\n2\n", "holds no"),
            (b"1 4294967295:1\n2 1:1\n", "more than"),
            (b"1 1000000000:1\n", "renumber"),
            (b"1 -1:1\n", "line 1"),
            (b"\xff\n", "not UTF-8"),
        ] {
            let e = read(bytes, As::New(0.0)).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }
}
