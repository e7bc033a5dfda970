/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Invalid requests to the vocabulary. Every message names the operands and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is not registered.
    #[error("no {kind} named `{name}`{hint}; `{list}` lists them")]
    Unknown {
        /// "method", "data set", ...
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// " (did you mean `x`?)" or empty.
        hint: String,
        /// The command that lists the known names.
        list: &'static str,
    },
    /// An option a method does not have, or of the wrong type.
    #[error("option of `{method}`: {message}; `nnz show {method}` lists its options")]
    Options {
        /// The method.
        method: &'static str,
        /// The parser's message.
        message: String,
    },
    /// A number outside its range.
    #[error("{name} must be {range}, got {got}")]
    Range {
        /// The quantity.
        name: &'static str,
        /// Where it must lie.
        range: String,
        /// The value given.
        got: f64,
    },
    /// A layer would lose its last connection.
    #[error(
        "density {density} leaves layer `{layer}` ({rows}x{cols}) without a connection; the smallest density that \
         keeps one in every layer here is {minimum:.2e}"
    )]
    EmptyLayer {
        /// The layer.
        layer: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// The density asked for.
        density: f64,
        /// The smallest that works.
        minimum: f64,
    },
    /// A pattern that cannot exist on a shape.
    #[error("pattern {pattern} does not fit layer `{layer}` ({rows}x{cols}): {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The layer.
        layer: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// The mismatch, and what would fit.
        why: String,
    },
    /// Two choices that exclude each other.
    #[error("{0}")]
    Refused(String),
    /// Asked to stop; everything up to here is kept.
    #[error("stopped; what was done is kept")]
    Stopped,
    /// Text that does not follow its grammar.
    #[error("cannot read `{text}` as {what}: {why}")]
    Parse {
        /// The text.
        text: String,
        /// What it should have been.
        what: &'static str,
        /// Why it is not.
        why: String,
    },
}

/// Returns " (did you mean `x`?)" for the known name nearest to `name`, or an empty string if none is near.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(name, k), k)).min();
    match scored {
        Some((d, k)) if d <= 1 + name.len() / 4 => format!(" (did you mean `{k}`?)"),
        _ => String::new(),
    }
}
