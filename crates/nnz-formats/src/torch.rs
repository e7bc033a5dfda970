//! PyTorch's `torch.save`: since 1.6 a zip archive of a pickle and one member per storage, before that pickles in sequence
//! followed by the storages.

use crate::Format;
use crate::archive::{Entry, Found, Place};
use crate::made;
use crate::packed::{self, Packing};
use crate::pickle::{self, Id, Node, Pickle};
use std::collections::BTreeMap;
use std::io::Cursor;

/// Deepest nesting of dictionaries.
const DEEP: usize = 16;

/// Location of the bytes of each storage.
type Storages = BTreeMap<String, (usize, usize)>;

/// Reads a zip archive.
pub(crate) fn read_zip(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("not a whole zip archive: {e}"))?;
    let (mut members, mut root) = (BTreeMap::new(), None);
    for i in 0..zip.len() {
        let file = zip.by_index(i).map_err(|e| format!("not a whole zip archive: {e}"))?;
        let name = file.name().map_err(|e| format!("a member's name: {e}"))?.into_owned();
        if name.contains("/code/") || name.ends_with("/constants.pkl") {
            return Err(
                "a TorchScript archive (`torch.jit.save`): it holds a program, which is not run; save its `state_dict()` with \
                 `torch.save`, or export it as ONNX"
                    .into(),
            );
        }
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!(
                "`{name}` is compressed, which PyTorch never does; nothing was unpacked. Save it again with `torch.save`"
            ));
        }
        let (start, size) =
            (file.data_start().and_then(|s| usize::try_from(s).ok()), usize::try_from(file.size()).ok());
        let range = start.zip(size).filter(|&(s, n)| s.checked_add(n).is_some_and(|end| end <= bytes.len()));
        let range = range.ok_or_else(|| format!("`{name}` reaches beyond the end of the file"))?;
        if let Some(folder) = name.strip_suffix("data.pkl") {
            root = Some((folder.to_owned(), range));
        }
        members.insert(name, range);
    }
    let Some((folder, (at, len))) = root else {
        return Err("a zip archive without data.pkl, so not one of `torch.save`".into());
    };
    if let Some(&(at, len)) = members.get(&format!("{folder}byteorder"))
        && &bytes[at..at + len] != b"little"
    {
        return Err("its numbers are big-endian, which is not read".into());
    }
    let pickle = pickle::read(&bytes[at..at + len]).map_err(|why| format!("data.pkl, {why}"))?;
    let prefix = format!("{folder}data/");
    let storages = members.into_iter().filter_map(|(n, r)| Some((n.strip_prefix(&prefix)?.to_owned(), r))).collect();
    tensors(&pickle, &storages, bytes.len(), blob)
}

/// Reads pickles in sequence: a magic number, a protocol, the machine, the object, the keys of the storages; then for each
/// storage its length and its numbers.
pub(crate) fn read_legacy(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let mut at = 0;
    let mut next = |what: &str| {
        let pickle = pickle::read(&bytes[at..]).map_err(|why| format!("{what}, {why}"))?;
        at += pickle.bytes;
        Ok::<_, String>(pickle)
    };
    let magic = next("the start")?;
    // The lower 64 bits of 0x1950a86a20f9469cfc6c.
    if !matches!(magic.node(magic.root), Node::Int(m) if *m as u64 == 0xa86a_20f9_469c_fc6c) {
        return Err("a pickle, but not one of `torch.save`".into());
    }
    next("the protocol")?;
    next("the machine")?;
    let (object, keys) = (next("the object")?, next("the storages")?);
    let mut storages = Storages::new();
    let sizes = widths(&object);
    for &key in keys.list(keys.root).ok_or("the keys of its storages are no list")? {
        let key = keys.text(key).ok_or("a storage's key is no text")?;
        let count = bytes.get(at..at + 8).ok_or("it ends before its storages")?;
        let count = usize::try_from(count.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b))).unwrap_or(usize::MAX);
        let width = sizes.get(key).copied().ok_or_else(|| format!("storage {key} is used by no tensor"))?;
        let len = count.checked_mul(width).filter(|&n| n <= bytes.len() - at - 8);
        let len = len.ok_or_else(|| format!("storage {key} claims {count} numbers, which are not there"))?;
        storages.insert(key.to_owned(), (at + 8, len));
        at += 8 + len;
    }
    tensors(&object, &storages, bytes.len(), blob)
}

/// Parses a storage as a pickle refers to it: its type and key.
fn storage(p: &Pickle, id: Id) -> Option<(Format, &str)> {
    let Node::Persistent(at) = p.node(id) else { return None };
    let parts = p.list(*at)?;
    (p.text(*parts.first()?)? == "storage").then_some(())?;
    let kind = p.global(*parts.get(1)?)?;
    let format = match kind.rsplit('.').next()? {
        "FloatStorage" => Format::F32,
        "DoubleStorage" => Format::F64,
        "HalfStorage" => Format::F16,
        "BFloat16Storage" => Format::BF16,
        "LongStorage" => Format::I64,
        "IntStorage" => Format::I32,
        "ShortStorage" => Format::I16,
        "CharStorage" => Format::I8,
        "ByteStorage" | "UntypedStorage" => Format::U8,
        "BoolStorage" => Format::Bool,
        "ComplexFloatStorage" => Format::Opaque("C64", 1, 8),
        "ComplexDoubleStorage" => Format::Opaque("C128", 1, 16),
        _ => return None,
    };
    Some((format, p.text(*parts.get(2)?)?))
}

/// The format of `torch.NAME`.
fn dtype(name: &str) -> Option<Format> {
    Some(match name.strip_prefix("torch.")? {
        "float32" | "float" => Format::F32,
        "float64" | "double" => Format::F64,
        "float16" | "half" => Format::F16,
        "bfloat16" => Format::BF16,
        "float8_e4m3fn" => Format::F8E4M3,
        "float8_e5m2" => Format::F8E5M2,
        "float8_e4m3fnuz" => Format::Opaque("F8_E4M3FNUZ", 1, 1),
        "float8_e5m2fnuz" => Format::Opaque("F8_E5M2FNUZ", 1, 1),
        "float8_e8m0fnu" => Format::Opaque("F8_E8M0", 1, 1),
        "uint16" => Format::U16,
        "uint32" => Format::U32,
        "uint64" => Format::U64,
        "uint8" => Format::U8,
        "int8" => Format::I8,
        "int16" | "short" => Format::I16,
        "int32" | "int" => Format::I32,
        "int64" | "long" => Format::I64,
        "bool" => Format::Bool,
        "complex64" => Format::Opaque("C64", 1, 8),
        "complex128" => Format::Opaque("C128", 1, 16),
        _ => return None,
    })
}

/// Bytes per number of each storage.
fn widths(p: &Pickle) -> BTreeMap<String, usize> {
    let all = (0..p.len()).filter_map(|id| storage(p, id));
    all.map(|(format, key)| (key.to_owned(), format.block().1)).collect()
}

/// Keys under which training scripts keep the weights.
const WRAPPERS: [&str; 7] = ["state_dict", "model_state_dict", "model", "module", "net", "network", "weights"];
/// Prefixes that wrappers of modules add to every name.
const PREFIXES: [&str; 4] = ["module.", "_orig_mod.", "model.", "net."];

fn tensors(p: &Pickle, storages: &Storages, end: usize, blob: usize) -> Result<Found, String> {
    let mut found = Found::default();
    let mut root = p.root;
    for _ in 0..3 {
        let Node::Dict(pairs) = p.node(root) else { break };
        let named = |(k, v): &&(Id, Id), w: &str| {
            p.text(*k) == Some(w) && matches!(p.node(*v), Node::Dict(_)) && holds(p, *v, 0)
        };
        let Some((w, &(key, inside))) = WRAPPERS.iter().find_map(|w| Some((*w, pairs.iter().find(|kv| named(kv, w))?)))
        else {
            break;
        };
        let others = pairs.iter().filter(|&&(k, v)| k != key && holds(p, v, 0)).filter_map(|(k, _)| p.text(*k));
        let others: Vec<&str> = others.collect();
        // Companions of weights in a training checkpoint; elsewhere a dictionary `model` may be a part of the network.
        let leftover = |n: &&str| {
            ["optim", "ema", "sched", "scaler", "rng", "amp", "lr"].iter().any(|k| n.to_lowercase().contains(k))
        };
        if !w.ends_with("state_dict") && !others.iter().all(leftover) {
            break;
        }
        if !others.is_empty() {
            let others = others.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            found.notes.push(format!(
                "weights are read from `{w}`; {others} of the file hold tensors too, which are left out"
            ));
        }
        root = inside;
    }
    walk(p, root, String::new(), 0, &mut (p.len() as usize), &mut |name, id| {
        // A single tensor has no name.
        let name = if name.is_empty() { "tensor".into() } else { name };
        if sparse(p, id, storages, end, blob, &name, &mut found)? {
            return Ok(());
        }
        let Some(entry) = tensor(p, id, storages, end, blob, &name)? else { return Ok(()) };
        found.entries.insert(name, entry);
        Ok(())
    })?;
    if found.entries.is_empty() {
        return Err("it holds no tensors by name; save `model.state_dict()`".into());
    }
    while let Some(prefix) = PREFIXES.iter().find(|x| found.entries.keys().all(|n| n.starts_with(**x))) {
        let bare = |n: &String| n[prefix.len()..].to_owned();
        found.entries =
            std::mem::take(&mut found.entries).into_iter().map(|(n, e)| (bare(&n), e.renamed(prefix))).collect();
        found.parts = found.parts.iter().map(bare).collect();
        found.notes.push(format!("every name begins with `{prefix}`, which is left out"));
    }
    Ok(found)
}

/// Whether a value is a tensor, or a dictionary with one.
fn holds(p: &Pickle, id: Id, deep: usize) -> bool {
    match p.node(id) {
        Node::Call(f, _) => p.global(*f).is_some_and(|f| f.starts_with("torch._utils._rebuild")),
        Node::Dict(pairs) => deep < DEEP && pairs.iter().any(|(_, v)| holds(p, *v, deep + 1)),
        _ => false,
    }
}

/// Adds a sparse tensor with its parts; false if it is not one.
fn sparse(
    p: &Pickle,
    id: Id,
    storages: &Storages,
    end: usize,
    blob: usize,
    name: &str,
    found: &mut Found,
) -> Result<bool, String> {
    let bad = |why: &str| format!("`{name}`: {why}");
    let Node::Call(f, arguments) = p.node(id) else { return Ok(false) };
    if p.global(*f) != Some("torch._utils._rebuild_sparse_tensor") {
        return Ok(false);
    }
    let arguments = p.list(*arguments).unwrap_or_default();
    let &[layout, data, ..] = arguments else { return Err(bad("a sparse tensor of nothing")) };
    let layout = match p.node(layout) {
        Node::Call(_, said) => p.list(*said).and_then(|l| p.text(*l.first()?)).unwrap_or("unnamed"),
        _ => "unnamed",
    };
    let data = p.list(data).unwrap_or_default();
    let sizes = |id: Id| -> Option<Vec<usize>> {
        // A `torch.Size` is a call with a tuple.
        let list = match p.node(id) {
            Node::Call(_, said) => p.list(*p.list(*said)?.first()?),
            _ => p.list(id),
        };
        list?.iter().map(|&i| p.size(i)).collect()
    };
    let mut part = |end_: &str, id: Id| -> Result<Entry, String> {
        let at = format!("{name}.{end_}");
        let entry = tensor(p, id, storages, end, blob, &at)?.ok_or_else(|| bad("a part that is no tensor"))?;
        found.entries.insert(at.clone(), entry.clone());
        found.parts.insert(at);
        Ok(entry)
    };
    let size = |e: &Entry| e.format.bytes(e.len()).unwrap_or(0);
    let entry = match (layout, data) {
        ("torch.sparse_coo", &[indices, values, shape, ..]) => {
            let (indices, values) = (part("indices", indices)?, part("values", values)?);
            let shape = sizes(shape).ok_or_else(|| bad("its shape is no list of sizes"))?;
            made::coo(name, shape, &values, size(&indices) + size(&values))?
        }
        ("torch.sparse_csr", &[rows, columns, values, shape, ..]) => {
            let rows = part("crow_indices", rows)?;
            let (columns, values) = (part("col_indices", columns)?, part("values", values)?);
            let shape = sizes(shape).ok_or_else(|| bad("its shape is no list of sizes"))?;
            let bytes = size(&rows) + size(&columns) + size(&values);
            if shape.len() != 2 || shape[0].checked_mul(shape[1]).is_none_or(|n| n > bytes.saturating_mul(packed::MOST))
            {
                return Err(bad(&format!("shape {shape:?} of compressed rows in {bytes} bytes; matrices are read")));
            }
            Entry::of(values.format, shape, Packing::Csr)
        }
        (other, _) => {
            return Err(bad(&format!("a sparse tensor of layout {other}; sparse_coo and sparse_csr are read")));
        }
    };
    found.entries.insert(name.into(), entry);
    Ok(true)
}

/// Calls `each` for everything that dictionaries name. A dictionary may occur several times, but all are not visited more
/// often than the pickle has parts: a dozen that hold each other twice would otherwise be millions.
fn walk(
    p: &Pickle,
    id: Id,
    name: String,
    deep: usize,
    left: &mut usize,
    each: &mut dyn FnMut(String, Id) -> Result<(), String>,
) -> Result<(), String> {
    let Node::Dict(pairs) = p.node(id) else { return each(name, id) };
    if deep > DEEP {
        return Err(format!("`{name}` holds dictionaries more than {DEEP} deep"));
    }
    for (key, value) in pairs {
        let Some(key) = p.text(*key) else { continue };
        *left = left.checked_sub(1).ok_or("its dictionaries hold each other again and again")?;
        let name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        walk(p, *value, name, deep + 1, left, each)?;
    }
    Ok(())
}

/// The sign bits that a view inverts: PyTorch stores `-x` and the conjugate of `x` as `x` with a mark. Bytes within a number.
fn signs(p: &Pickle, marks: Option<&Id>, format: Format) -> Result<Vec<usize>, String> {
    let Some(Node::Dict(marks)) = marks.map(|&id| p.node(id)) else { return Ok(Vec::new()) };
    let (mut negative, mut conjugate) = (false, false);
    for (key, _) in marks {
        match p.text(*key) {
            Some("neg") => negative = true,
            Some("conj") => conjugate = true,
            other => return Err(format!("a tensor marked `{}`, which is not read", other.unwrap_or("unnamed"))),
        }
    }
    let parts = match format {
        Format::Opaque("C64" | "C128", ..) => 2,
        f if f.is_float() && !conjugate => 1,
        f => return Err(format!("the negative or conjugate of {}, which is not read", f.name())),
    };
    let each = format.block().1 / parts;
    let inverted = |part: &usize| negative != (conjugate && *part == 1);
    Ok((0..parts).filter(inverted).map(|part| part * each + each - 1).collect())
}

/// The tensor that a call describes; `None` if it is not a tensor.
fn tensor(
    p: &Pickle,
    mut id: Id,
    storages: &Storages,
    end: usize,
    blob: usize,
    name: &str,
) -> Result<Option<Entry>, String> {
    let bad = |why: &str| format!("`{name}`: {why}");
    for _ in 0..4 {
        let Node::Call(f, arguments) = p.node(id) else { return Ok(None) };
        let (Some(f), Some(arguments)) = (p.global(*f), p.list(*arguments)) else { return Ok(None) };
        if f == "torch._utils._rebuild_parameter" {
            id = *arguments.first().ok_or_else(|| bad("a parameter of nothing"))?;
            continue;
        }
        if !f.starts_with("torch._utils._rebuild_tensor") {
            return Ok(None);
        }
        let &[from, offset, shape, strides, ..] = arguments else { return Err(bad("a tensor without shape")) };
        let (mut format, key) = storage(p, from).ok_or_else(|| bad("its numbers are of a type that is not read"))?;
        // PyTorch's largest number of axes: one long list may be the shape of thousands of tensors.
        let few = |l: &&[Id]| l.len() <= 64;
        let sizes =
            |id: Id| p.list(id).filter(few).and_then(|l| l.iter().map(|&i| p.size(i)).collect::<Option<Vec<_>>>());
        let (Some(offset), Some(shape), Some(strides)) = (p.size(offset), sizes(shape), sizes(strides)) else {
            return Err(bad("its shape is no list of at most 64 sizes"));
        };
        if f.ends_with("_v3") {
            let said = arguments.get(6).and_then(|&d| p.global(d));
            let said = said.ok_or_else(|| bad("a tensor that does not say its type"))?;
            format = dtype(said).ok_or_else(|| bad(&format!("numbers of type {said}, which is not read")))?;
        }
        let signs = signs(p, arguments.get(if f.ends_with("_v3") { 7 } else { 6 }), format).map_err(|why| bad(&why))?;
        let &(at, len) = storages.get(key).ok_or_else(|| bad(&format!("storage {key} is missing")))?;
        let width = format.block().1;
        let count = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |n, (&s, &t)| n.checked_add(s.saturating_sub(1).checked_mul(t)?));
        let inside = shape.len() == strides.len()
            && match (count, last) {
                (Some(0), _) => true,
                (Some(count), Some(last)) => {
                    // A view may repeat its data, but not beyond the size of the file.
                    last.checked_add(1).and_then(|n| n.checked_mul(width)).is_some_and(|n| n <= len)
                        && count.checked_mul(width).is_some_and(|n| n / 16 <= end)
                }
                _ => false,
            };
        if !inside {
            return Err(bad(&format!("shape {shape:?} at number {offset} leaves its storage of {len} bytes")));
        }
        let mut plain = 1;
        let straight = shape.iter().zip(&strides).rev().all(|(&s, &t)| {
            let fits = s <= 1 || t == plain;
            plain = plain.saturating_mul(s.max(1));
            fits
        });
        let strides = if straight || count == Some(0) { Vec::new() } else { strides };
        let at = if count == Some(0) { at } else { at + offset * width };
        return Ok(Some(Entry::new(format, shape, Place { strides, signs, ..Place::plain(blob, at) })));
    }
    Err(bad("a parameter of a parameter of a parameter"))
}
