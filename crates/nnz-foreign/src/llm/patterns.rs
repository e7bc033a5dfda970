//! Regular expressions that a `tokenizer.json` brings.
//!
//! The `tokenizers` crate searches with backtracking where a pattern looks around; after a million steps back it gives up and takes the
//! rest of the text for one piece, without a word. So patterns are bounded when the file is read, and a text is searched
//! here before that crate splits it.

use fancy_regex::{Expr, Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizer, PreTokenizerWrapper, Tokenizer};

/// Bytes of all patterns of a tokenizer.
const BYTES: usize = 4096;
/// Size of a pattern with its repetitions written out: 64 for a class of characters, which takes up to a hundred kilobytes compiled,
/// and 1 for a character.
const SIZE: usize = 1 << 13;
/// Steps back in a search for one match, after which that crate gives up, too.
const STEPS: usize = 1_000_000;
/// What `ByteLevel` splits by.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

fn compile(pattern: &str) -> Result<Regex, String> {
    let fail = |e: fancy_regex::Error| format!("its pattern {pattern:?}: {e}");
    let size = size(&Expr::parse_tree(pattern).map_err(fail)?.expr);
    if size > SIZE {
        return Err(format!("its pattern {pattern:?} is too large: {size}, where {SIZE} is read"));
    }
    RegexBuilder::new(pattern).backtrack_limit(STEPS).build().map_err(fail)
}

/// Size of an expression, in the units of [`SIZE`]. Nested 64 deep at most, which the parser ensures.
fn size(expression: &Expr) -> usize {
    let all = |list: &[Expr]| list.iter().map(size).fold(1usize, usize::saturating_add);
    match expression {
        Expr::Literal { val, .. } => val.len(),
        Expr::Delegate { inner, .. } => inner.len().max(64),
        Expr::Concat(list) | Expr::Alt(list) => all(list),
        Expr::Group(inner) | Expr::AtomicGroup(inner) | Expr::LookAround(inner, _) => size(inner),
        Expr::Repeat { child, lo, hi, .. } => {
            size(child).saturating_mul(if *hi == usize::MAX { (*lo).max(1) } else { (*hi).max(1) })
        }
        Expr::Conditional { condition, true_branch, false_branch } => {
            [condition, true_branch, false_branch].into_iter().map(|e| size(e)).fold(1, usize::saturating_add)
        }
        _ => 1,
    }
}

/// Refuses patterns that are large, or so where they change texts and not only split them: those must need no backtracking.
pub fn bounded(json: &[u8]) -> Result<(), String> {
    /// Whatever may have patterns; the vocabulary is skipped.
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Parts {
        normalizer: Value,
        pre_tokenizer: Value,
        post_processor: Value,
        decoder: Value,
    }
    fn walk(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("Regex").and_then(Value::as_str).map(String::from));
                out.extend(map.get("String").and_then(Value::as_str).map(|s| fancy_regex::escape(s).into_owned()));
                map.values().for_each(|v| walk(v, out));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, out)),
            _ => {}
        }
    }
    let parts: Parts = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let (mut splitting, mut changing) = (Vec::new(), Vec::new());
    walk(&parts.pre_tokenizer, &mut splitting);
    [&parts.normalizer, &parts.post_processor, &parts.decoder].into_iter().for_each(|p| walk(p, &mut changing));
    let bytes: usize = splitting.iter().chain(&changing).map(String::len).sum();
    if bytes > BYTES {
        return Err(format!("its patterns have {bytes} bytes; at most {BYTES} are read"));
    }
    splitting.iter().chain(&changing).try_for_each(|p| compile(p).map(drop))?;
    match changing.iter().find(|p| regex::Regex::new(p).is_err()) {
        Some(hard) => Err(format!("its pattern {hard:?} replaces texts and looks around, which is not supported")),
        None => Ok(()),
    }
}

/// The patterns by which a tokenizer splits texts.
#[derive(Debug)]
pub struct Patterns(Vec<Option<Regex>>);

impl Patterns {
    /// Those of a tokenizer that is [`bounded`].
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, String> {
        let pattern = |step: &PreTokenizerWrapper| match step {
            PreTokenizerWrapper::Split(split) => match &split.pattern {
                SplitPattern::Regex(pattern) => compile(pattern).map(Some),
                SplitPattern::String(_) => Ok(None),
            },
            PreTokenizerWrapper::ByteLevel(level) if level.use_regex => compile(BYTE_LEVEL).map(Some),
            _ => Ok(None),
        };
        let mut patterns: Vec<Option<Regex>> = steps(tokenizer).into_iter().map(pattern).collect::<Result<_, _>>()?;
        // Whatever comes after the last of them does not matter.
        patterns.truncate(patterns.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        Ok(Self(patterns))
    }

    /// Searches a text as the tokenizer will, piece by piece.
    ///
    /// # Errors
    /// When a search takes too many steps.
    pub fn search(&self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let vocabulary = tokenizer.get_added_vocabulary();
        let mut pieces = vocabulary.extract_and_normalize(tokenizer.get_normalizer(), text);
        for (step, pattern) in steps(tokenizer).into_iter().zip(&self.0) {
            if let Some(pattern) = pattern {
                for (piece, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                    if tokens.is_none() && pattern.find_iter(piece).any(|found| found.is_err()) {
                        let pattern = pattern.as_str();
                        let why = format!("its pattern {pattern:?} takes more than {STEPS} steps back on this text");
                        return Err(format!("{why}, which would be split wrongly").into());
                    }
                }
            }
            step.pre_tokenize(&mut pieces)?;
        }
        Ok(())
    }
}

/// Pre-tokenizers in order.
fn steps(tokenizer: &Tokenizer) -> Vec<&PreTokenizerWrapper> {
    fn flat<'a>(step: &'a PreTokenizerWrapper, out: &mut Vec<&'a PreTokenizerWrapper>) {
        match step {
            PreTokenizerWrapper::Sequence(list) => list.as_ref().iter().for_each(|s| flat(s, out)),
            one => out.push(one),
        }
    }
    let mut out = Vec::new();
    if let Some(step) = tokenizer.get_pre_tokenizer() {
        flat(step, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Tokens;
    use serde_json::{Value, json};
    use std::path::Path;

    fn tokens(normalizer: Value, pre_tokenizer: Value) -> crate::Result<Tokens> {
        let words: serde_json::Map<_, _> = ["<unk>", "a", "b", "c", "aa", "aaa", "x"]
            .iter()
            .enumerate()
            .map(|(i, w)| ((*w).into(), json!(i)))
            .collect();
        let said = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}});
        Tokens::parse(Path::new("tokenizer.json"), said.to_string().into_bytes(), None)
    }

    fn split(pattern: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    }

    fn refused(answer: crate::Result<impl Sized>, part: &str) {
        let said = answer.err().expect(part).to_string();
        assert!(said.contains(part), "{said}");
    }

    #[test]
    fn patterns_of_known_models_are_read() {
        for pattern in [
            super::BYTE_LEVEL,
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[\p{P}\p{S}]?[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        ] {
            let known = tokens(json!(null), split(pattern)).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            // Long runs of spaces and letters take few steps back.
            for text in ["a b  c".to_string(), " ".repeat(70_000) + "x", "a".repeat(70_000), "a \n".repeat(9000)] {
                known.encode(&text).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            }
        }
    }

    /// The crate gives up silently where it takes too many steps, and would return one piece.
    #[test]
    fn a_text_that_takes_too_many_steps_is_refused() {
        let (pattern, text) = (r"(?:a+)+b(?!c)|a", "a".repeat(40));
        let words = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, split(pattern)]});
        for (steps, pieces) in [(split(pattern), 5), (words, 4)] {
            let tokens = tokens(json!(null), steps).unwrap();
            assert_eq!(tokens.encode("aaa ab").unwrap().len(), pieces);
            refused(tokens.encode(&text), "steps back");
            refused(tokens.framed(&text, 7), "steps back");
        }
        // Without looking around nothing steps back.
        assert_eq!(tokens(json!(null), split("(?:a+)+b|a")).unwrap().encode(&text).unwrap().len(), 40);
    }

    #[test]
    fn large_patterns_are_refused() {
        let (letters, classes) = (r"(?=\p{L}{200})".repeat(40), r"(?=\p{L})".repeat(140));
        for pattern in
            [letters.as_str(), &classes, r"(?:[a-z]{1,1000}){1000}", r"(?=(?:\p{L}{100}){100})a", "(?:a{100}){100}"]
        {
            refused(tokens(json!(null), split(pattern)), "too large");
        }
        refused(tokens(json!(null), split(&"ab|".repeat(2000))), "its patterns have 6000 bytes; at most 4096");
        let many: Vec<Value> = (0..900).map(|_| split("a+b+c")).collect();
        refused(tokens(json!(null), json!({"type": "Sequence", "pretokenizers": many})), "at most 4096");
    }

    #[test]
    fn replacements_do_not_look_around() {
        let replace = |pattern: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"});
        refused(tokens(replace(r"a(?=b)"), json!(null)), "looks around");
        tokens(replace(r" {2,}"), json!(null)).unwrap();
        let text = json!({"type": "Replace", "pattern": {"String": "a(?=b"}, "content": "x"});
        tokens(text, json!(null)).unwrap();
    }
}
