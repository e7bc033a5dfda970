//! Plain text as next-character prediction: a row is a window of `context` characters, its label the next one.
//!
//! A character is one-hot, so a row is `[1][context][characters]`. Windows begin every `stride` characters,
//! by default without overlap. The end of the text is the test part: windows drawn at random would overlap.

use super::stream::{WHOLE, whole};
use super::{Found, MAX_CLASSES, Options, Part, Parts, bounded, content};
use crate::Result;
use nnz_engine::data::{Inputs, Split};
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn read(path: &Path, options: &Options, share: f64) -> Result<Found> {
    let (bytes, checksum) = whole(path, WHOLE)?;
    parse(&bytes, &path.display().to_string(), options, share, checksum).map(Found::Parts)
}

pub(super) fn parse(bytes: &[u8], place: &str, options: &Options, share: f64, checksum: String) -> Result<Parts> {
    let context = options.count("context", 8)?;
    let stride = options.count("stride", context)?;
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        content(format!("{place}, byte {}, line {line}", e.valid_up_to()), "not UTF-8; save the text as UTF-8")
    })?;
    let mut numbers: BTreeMap<char, u32> = text.chars().map(|c| (c, 0)).collect();
    if numbers.len() < 2 || numbers.len() > MAX_CLASSES {
        let why = format!("{} different characters; 2 to {MAX_CLASSES} can be told apart", numbers.len());
        return Err(content(place, why));
    }
    numbers.values_mut().zip(0..).for_each(|(n, i)| *n = i);
    let classes: Vec<String> = numbers.keys().map(|c| c.to_string()).collect();
    let characters: Vec<u32> = text.chars().map(|c| numbers[&c]).collect();
    // The test part begins after the last character that training sees.
    let (seen, unseen) = characters.split_at(((1.0 - share) * characters.len() as f64).round() as usize);
    let part = |characters: &[u32]| -> Result<Part> {
        let rows = characters.len().checked_sub(context).filter(|&n| n > 0).map(|n| (n - 1) / stride + 1);
        let rows = rows.ok_or_else(|| {
            let n = characters.len();
            content(place, format!("{n} characters hold no window of {context} and an answer; give a longer text"))
        })?;
        let width = context.saturating_mul(classes.len());
        if bounded(place, rows, width).is_err() {
            let why = format!("{rows} windows of {context} characters of {} kinds are too many", classes.len());
            return Err(content(place, format!("{why}; a larger stride or a smaller context makes fewer")));
        }
        let mut inputs = vec![0; rows * width];
        let mut labels = Vec::with_capacity(rows);
        for (row, out) in inputs.chunks_exact_mut(width).enumerate() {
            let window = &characters[row * stride..row * stride + context + 1];
            for (out, &c) in out.chunks_exact_mut(classes.len()).zip(window) {
                // Bytes are scaled by 1/255.
                out[c as usize] = 255;
            }
            labels.push(window[context]);
        }
        let image = [classes.len(), 1, context];
        let classes = classes.clone();
        Ok(Part {
            place: place.into(),
            image,
            rows: Split::new(Inputs::Bytes(inputs), labels),
            classes,
            checksum: checksum.clone(),
            notes: Vec::new(),
        })
    };
    let test = if share > 0.0 { Some(part(unseen)?) } else { None };
    Ok(Parts { test, ..Parts::one(part(seen)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        Options(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn windows_and_what_follows_them() {
        let two = options(&[("context", "2"), ("stride", "1")]);
        let parts = parse("abcabcabca".as_bytes(), "t", &two, 0.4, "s".into()).unwrap();
        let (train, test) = (parts.train, parts.test.unwrap());
        assert_eq!((train.image, train.rows.labels, test.rows.labels), ([3, 1, 2], vec![2, 0, 1, 2], vec![2, 0]));
        let Inputs::Bytes(v) = train.rows.inputs else { panic!() };
        assert_eq!(v[..6], [255, 0, 0, 0, 255, 0]);
        let one = parse("añbañb".as_bytes(), "t", &options(&[("context", "1")]), 0.0, String::new()).unwrap();
        assert_eq!((one.train.classes.join(""), one.test.is_none()), ("abñ".to_string(), true));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let say = |bytes: &[u8], pairs: &[(&str, &str)]| {
            parse(bytes, "t", &options(pairs), 0.2, String::new()).unwrap_err().to_string()
        };
        assert!(say(b"one\ntwo\xff", &[]).contains("t, byte 7, line 2: not UTF-8"));
        assert!(say(b"", &[]).contains("0 different characters"));
        assert!(say(b"aaaa", &[]).contains("1 different characters"));
        assert!(say(b"abc", &[]).contains("hold no window"));
        assert!(say(b"abcd", &[("context", "0")]).contains("whole number"));
        assert!(say(b"abcd", &[("context", "99999999999999999999")]).contains("whole number"));
    }
}
