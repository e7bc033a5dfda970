//! The binary files of CIFAR-10 and CIFAR-100: rows of one label (two for CIFAR-100, coarse and fine) and 3072 bytes,
//! a red, a green and a blue plane of 32 x 32.

use super::arrays::interleave;
use super::stream::{WHOLE, whole};
use super::{Part, Parts, content};
use crate::Result;
use nnz_engine::data::{Inputs, Split, hex};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const PIXELS: usize = 3 * 32 * 32;

/// The data set in a folder that has files of these names; `None` if it has none of them.
pub(super) fn find(folder: &Path) -> Option<Result<Parts>> {
    let there =
        |name: &str| [name.to_string(), format!("{name}.gz")].iter().map(|n| folder.join(n)).find(|p| p.is_file());
    let batches: Vec<PathBuf> = (1..=5).filter_map(|i| there(&format!("data_batch_{i}.bin"))).collect();
    if !batches.is_empty() {
        let Some(test) = there("test_batch.bin") else {
            return Some(Err(content(folder.display().to_string(), "lacks test_batch.bin, the test part of CIFAR-10")));
        };
        return Some(read(&batches, &test, there("batches.meta.txt"), false));
    }
    let (train, test) = (there("train.bin")?, there("test.bin")?);
    Some(read(&[train], &test, there("fine_label_names.txt"), true))
}

fn read(train: &[PathBuf], test: &Path, names: Option<PathBuf>, hundred: bool) -> Result<Parts> {
    let known = if hundred { 100 } else { 10 };
    let classes: Vec<String> = match names {
        Some(path) => {
            let (bytes, _) = whole(&path, 1 << 16)?;
            let text = String::from_utf8_lossy(&bytes);
            let names: Vec<String> =
                text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string).collect();
            if names.len() != known {
                let why = format!("{} names for {known} classes; take the file away, or complete it", names.len());
                return Err(content(path.display().to_string(), why));
            }
            names
        }
        None => (0..known).map(|c| c.to_string()).collect(),
    };
    let part = |files: &[PathBuf]| -> Result<Part> {
        let (mut labels, mut pixels, mut sum) = (Vec::new(), Vec::new(), Sha256::new());
        for path in files {
            let (bytes, checksum) = whole(path, WHOLE)?;
            let (l, p) = parse(&bytes, &path.display().to_string(), hundred)?;
            labels.extend(l);
            pixels.extend(p);
            sum.update(checksum);
        }
        let place = files.first().map_or_else(String::new, |f| f.display().to_string());
        let (rows, checksum) = (Split::new(Inputs::Bytes(pixels), labels), hex(&sum.finalize()));
        Ok(Part { place, image: [3, 32, 32], rows, classes: classes.clone(), checksum, notes: Vec::new() })
    };
    Ok(Parts { test: Some(part(&[test.into()])?), ..Parts::one(part(train)?) })
}

/// Labels and pixels, `[rows][32][32][3]`, of one file.
pub(super) fn parse(bytes: &[u8], place: &str, hundred: bool) -> Result<(Vec<u32>, Vec<u8>)> {
    let (head, classes) = if hundred { (2, 100) } else { (1, 10) };
    let row = head + PIXELS;
    if bytes.is_empty() || !bytes.len().is_multiple_of(row) {
        let why = format!("{} bytes are no whole rows of {row}; the file is cut off or of another kind", bytes.len());
        return Err(content(place, why));
    }
    let mut labels = Vec::with_capacity(bytes.len() / row);
    let mut pixels = Vec::with_capacity(bytes.len() / row * PIXELS);
    for (i, row) in bytes.chunks_exact(row).enumerate() {
        let label = row[head - 1];
        if label >= classes {
            let at = format!("{place}, byte {}", i * row.len() + head - 1);
            return Err(content(at, format!("row {i} has label {label}, but the labels are 0 to {}", classes - 1)));
        }
        labels.push(label.into());
        pixels.extend(&row[head..]);
    }
    interleave(&mut pixels, 3, PIXELS);
    Ok((labels, pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        let mut row = vec![3u8];
        row.extend((0..PIXELS).map(|i| (i / 1024 * 50 + i % 7) as u8));
        let (labels, pixels) = parse(&row, "f", false).unwrap();
        assert_eq!((labels, &pixels[..6]), (vec![3], &[0, 50 + 2, 100 + 4, 1, 53, 105][..]));
        row[0] = 10;
        assert!(parse(&row, "f", false).unwrap_err().to_string().contains("f, byte 0: row 0 has label 10"));
        assert!(parse(&row[1..], "f", false).unwrap_err().to_string().contains("no whole rows"));
        row.insert(0, 9);
        assert_eq!(parse(&row, "f", true).unwrap().0, [10]);
    }

    #[test]
    fn a_folder_of_batches_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(dir.path()).is_none());
        let row = |label: u8| [&[label][..], &[label; PIXELS]].concat();
        let put = |name: &str, bytes: Vec<u8>| std::fs::write(dir.path().join(name), bytes).unwrap();
        put("data_batch_1.bin", [row(1), row(2)].concat());
        assert!(find(dir.path()).unwrap().unwrap_err().to_string().contains("lacks test_batch.bin"));
        put("data_batch_2.bin", row(9));
        put("test_batch.bin", row(4));
        let parts = find(dir.path()).unwrap().unwrap();
        assert_eq!((parts.train.rows.labels, parts.test.unwrap().rows.labels), (vec![1, 2, 9], vec![4]));
        put("batches.meta.txt", b"a\nb\n".to_vec());
        assert!(find(dir.path()).unwrap().unwrap_err().to_string().contains("2 names for 10 classes"));
    }
}
