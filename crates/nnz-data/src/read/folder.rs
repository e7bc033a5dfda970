//! A folder: the four files of MNIST, CIFAR's batches, or one subfolder per class with images (PNG, JPEG) or clips (WAV).
//! Class folders may lie in `train` and `test`.

use super::wav;
use super::{Found, MAX_VALUES, Options, Part, Parts, cifar, content, shape};
use crate::picture::{Picture, decode};
use crate::{Error, Result};
use nnz_engine::data::{Inputs, Split, hex};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Most files in a folder, over all classes.
const MAX_FILES: usize = 1 << 24;
/// Most bytes of one image or clip.
const MAX_BYTES: u64 = 64 << 20;

pub(super) fn read(path: &Path, options: &Options, _: f64) -> Result<Found> {
    if let Some(parts) = cifar::find(path) {
        return parts.map(Found::Parts);
    }
    let samples = options.get("samples").map(|_| options.count("samples", 1)).transpose()?;
    let sub = |names: &[&str]| names.iter().map(|n| path.join(n)).find(|p| p.is_dir());
    let parts = match sub(&["train", "training"]) {
        Some(train) => {
            let test =
                sub(&["test", "testing", "val", "valid", "validation"]).map(|t| classes(&t, samples)).transpose()?;
            Parts { test, ..Parts::one(classes(&train, samples)?) }
        }
        None => Parts::one(classes(path, samples)?),
    };
    Ok(Found::Parts(parts))
}

/// Lists a folder in order of name, without hidden files.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |why| Error::Io { what: "read", path: folder.into(), why };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Reads one subfolder per class.
fn classes(folder: &Path, samples: Option<usize>) -> Result<Part> {
    let place = folder.display().to_string();
    let (mut files, mut names): (Vec<(PathBuf, u32)>, Vec<String>) = Default::default();
    for sub in list(folder)?.into_iter().filter(|p| p.is_dir()) {
        let known = |p: &PathBuf| ["png", "jpg", "jpeg", "wav"].contains(&&*ending(p));
        let found: Vec<PathBuf> = list(&sub)?.into_iter().filter(known).collect();
        let name = sub.file_name().unwrap_or_default();
        let Some(name) = name.to_str() else {
            return Err(content(
                place,
                format!("the folder {} has a name that is not UTF-8; rename it", name.display()),
            ));
        };
        if found.is_empty() {
            continue;
        }
        files.extend(found.into_iter().map(|f| (f, names.len() as u32)));
        names.push(name.into());
    }
    if files.is_empty() {
        return Err(Error::Folder { folder: folder.into() });
    }
    if files.len() > MAX_FILES {
        return Err(content(place, format!("{} files; at most {MAX_FILES} are read", files.len())));
    }
    let sound = files.iter().filter(|(f, _)| ending(f) == "wav").count();
    match sound {
        0 => pictures(place, files, names),
        n if n == files.len() => clips(place, files, names, samples),
        n => Err(content(
            place,
            format!("{n} of {} files are WAV, the others pictures; a data set is one of both", files.len()),
        )),
    }
}

fn bytes(path: &Path) -> Result<(Vec<u8>, [u8; 32])> {
    let failed = |why| Error::Io { what: "read", path: path.into(), why };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(content(path.display().to_string(), format!("larger than {} MiB", MAX_BYTES >> 20)));
    }
    let sum = Sha256::digest(&bytes).into();
    Ok((bytes, sum))
}

/// Reads files in parallel and hands them over in order, a block at a time so that few wait in memory.
fn each<R: Send>(
    files: &[(PathBuf, u32)],
    read: impl Fn(&[u8], &str) -> Result<R> + Sync,
    mut take: impl FnMut(R, &Path) -> Result<()>,
) -> Result<String> {
    let mut all = Sha256::new();
    for block in files.chunks(256) {
        let read: Vec<Result<(R, [u8; 32])>> = block
            .par_iter()
            .map(|(path, _)| {
                let (bytes, sum) = bytes(path)?;
                Ok((read(&bytes, &path.display().to_string())?, sum))
            })
            .collect();
        for (result, (path, label)) in read.into_iter().zip(block) {
            let (item, sum) = result?;
            all.update(sum);
            all.update(label.to_le_bytes());
            take(item, path)?;
        }
    }
    Ok(hex(&all.finalize()))
}

fn pictures(place: String, files: Vec<(PathBuf, u32)>, classes: Vec<String>) -> Result<Part> {
    let mut first: Option<(usize, usize)> = None;
    let (mut gray, mut values) = (true, Vec::<u8>::new());
    // Gray until the first coloured image; then gray ones get three equal channels.
    let read = |bytes: &[u8], place: &str| decode(bytes).map_err(|why| content(place, why));
    let checksum = each(&files, read, |picture: Picture, path| {
        let size = (picture.height, picture.width);
        let (height, width) = *first.get_or_insert(size);
        if size != (height, width) {
            let (is, was) = (shape([1, size.0, size.1]), shape([1, height, width]));
            let why = format!("{is}, but {} is {was}; crop or resize them to one size first", files[0].0.display());
            return Err(content(path.display().to_string(), why));
        }
        if gray && picture.channels == 3 {
            gray = false;
            values = values.iter().flat_map(|&v| [v; 3]).collect();
        }
        if values.len() as u64 > MAX_VALUES {
            return Err(content(&place, format!("more than {MAX_VALUES} values are not read")));
        }
        match (gray, picture.channels) {
            (false, 1) => values.extend(picture.pixels.iter().flat_map(|&v| [v; 3])),
            _ => values.extend(picture.pixels),
        }
        Ok(())
    })?;
    let (height, width) = first.unwrap_or_default();
    let image = [if gray { 1 } else { 3 }, height, width];
    let labels = files.into_iter().map(|(_, l)| l).collect();
    Ok(Part { place, image, rows: Split::new(Inputs::Bytes(values), labels), classes, checksum, notes: Vec::new() })
}

fn clips(place: String, files: Vec<(PathBuf, u32)>, classes: Vec<String>, samples: Option<usize>) -> Result<Part> {
    let mut first: Option<(usize, u32, usize)> = None;
    let mut values = Vec::new();
    let checksum = each(&files, wav::parse, |mut clip: wav::Clip, path| {
        let length = clip.values.len() / clip.channels;
        let (channels, rate, want) = *first.get_or_insert((clip.channels, clip.rate, samples.unwrap_or(length)));
        let here = || path.display().to_string();
        if (clip.channels, clip.rate) != (channels, rate) {
            let (c, r) = (clip.channels, clip.rate);
            let why = format!("{c} channels at {r} Hz, but {} has {channels} at {rate} Hz", files[0].0.display());
            return Err(content(here(), why + "; convert them to one kind first"));
        }
        if samples.is_none() && length != want {
            let why = format!("{length} samples, but {} has {want}", files[0].0.display());
            return Err(content(
                here(),
                why + "; give `?samples=N` after the path, which cuts longer clips and ends shorter ones in silence",
            ));
        }
        if want.checked_mul(channels).is_none_or(|n| (values.len() + n) as u64 > MAX_VALUES) {
            return Err(content(&place, format!("more than {MAX_VALUES} values are not read")));
        }
        clip.values.resize(want * channels, 0.0);
        values.extend(clip.values);
        Ok(())
    })?;
    let (channels, _, length) = first.unwrap_or_default();
    let labels = files.into_iter().map(|(_, l)| l).collect();
    let rows = Split::new(Inputs::Floats(values), labels);
    Ok(Part { place, image: [channels, 1, length], rows, classes, checksum, notes: Vec::new() })
}
