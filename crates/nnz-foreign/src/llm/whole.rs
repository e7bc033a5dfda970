//! Checks that a file of weights is read completely: every tensor is used, has no effect, or is refused by name.

use nnz_formats::{Archive, Entry, Format};

/// Names that packages of quantized weights use instead of a weight's.
const PACKED: [&str; 6] = ["qweight", "weight_packed", "weight.absmax", "qzeros", "w_q", "weight.quant_map"];

/// Tensors that define the rounding of activations, which are not rounded here, and counters.
pub(crate) fn idle(name: &str) -> bool {
    ["input_scale", "output_scale", "k_scale", "v_scale", "num_batches_tracked", "position_ids"]
        .iter()
        .any(|end| name.strip_suffix(end).is_some_and(|n| n.is_empty() || n.ends_with('.')))
}

/// Explains why a tensor that a network needs is missing.
pub(crate) fn missing(archive: &Archive, name: &str) -> String {
    let layer = name.strip_suffix("weight").unwrap_or(name);
    let packed = PACKED.iter().map(|p| format!("{layer}{p}")).find(|p| archive.get(p).is_some());
    match packed {
        Some(packed) => format!("{}; give the model as it was before", quantized(archive, &packed)),
        None => format!("tensor `{name}` is missing"),
    }
}

fn quantized(archive: &Archive, name: &str) -> String {
    let said = archive.config.as_ref().map(|c| &c["quantization_config"]);
    let method = said.and_then(|c| c["quant_method"].as_str()).map_or(String::new(), |m| format!(" by {m}"));
    format!("`{name}` holds weights quantized{method} in a way that is not read")
}

/// Checks that numbers of a weight are real values: integers would need a scale.
pub(crate) fn scaled(archive: &Archive, name: &str, entry: &Entry) -> Result<(), String> {
    let said = archive.config.as_ref().is_some_and(|c| !c["quantization_config"].is_null());
    let small = matches!(entry.format, Format::F8E4M3 | Format::F8E5M2) && said;
    if (!entry.format.is_whole() && !small) || entry.is_scaled() || archive.by_steps(name) {
        return Ok(());
    }
    Err(format!(
        "`{name}` holds {} without the scales that make weights of them; give the model unquantized, or with its scales",
        entry.format.name()
    ))
}

/// Checks that every tensor is known.
pub(crate) fn check(
    archive: &Archive,
    known: impl Fn(&str, &Entry) -> bool,
    what: impl Fn() -> String,
) -> Result<(), String> {
    let mut unknown = archive.tensors().filter(|(n, e)| !known(n, e)).map(|(n, _)| n);
    let Some(first) = unknown.next() else { return Ok(()) };
    let more = match unknown.count() {
        0 => String::new(),
        1 => " and another tensor".into(),
        n => format!(" and {n} other tensors"),
    };
    let way = match archive.config {
        Some(_) => "take the config.json that came with these weights",
        None => "such a network can come as ONNX",
    };
    Err(format!("`{first}`{more} of the file would be lost: no part of {} reads them; {way}", what()))
}
