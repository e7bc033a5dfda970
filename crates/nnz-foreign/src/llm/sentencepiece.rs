//! Converts a GGUF file's sentencepiece byte-pair vocabulary to a `tokenizer.json`.

use super::tokens::{before_texts, special};
use nnz_formats::{Archive, Value};
use serde_json::json;
use std::collections::HashMap;

/// Space in pieces.
const SPACE: &str = "\u{2581}";

/// Adjacent pieces merge into the piece of the largest score, and characters in no piece are written byte by byte.
pub(super) fn json(archive: &Archive) -> Result<Vec<u8>, String> {
    let get = |key: &str| archive.metadata.get(&format!("tokenizer.ggml.{key}"));
    let list = |key: &str| get(key).and_then(Value::list).ok_or(format!("it has no tokenizer.ggml.{key}"));
    let no = |key: &str, what: &str| format!("tokenizer.ggml.{key} holds what is no {what}");
    let tokens = list("tokens")?.iter().map(Value::text).collect::<Option<Vec<_>>>().ok_or(no("tokens", "text"))?;
    let scores = list("scores")?.iter().map(Value::number).collect::<Option<Vec<_>>>().ok_or(no("scores", "number"))?;
    let places: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (*t, i)).collect();
    if scores.len() != tokens.len() {
        return Err(format!("a vocabulary of {} tokens and {} scores", tokens.len(), scores.len()));
    }
    if !tokens.iter().any(|t| t.contains(SPACE)) {
        return Err("a vocabulary of kind llama in which no token has a space as sentencepiece writes it".into());
    }
    let mut merges = Vec::new();
    for (whole, token) in tokens.iter().enumerate() {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut parts: Vec<(usize, usize)> =
            cuts.filter_map(|(a, b)| Some((*places.get(a)?, *places.get(b)?))).collect();
        parts.sort_unstable();
        merges.extend(parts.into_iter().map(|(a, b)| (scores[whole], tokens[a], tokens[b])));
    }
    // Stable, so that of equal scores the earlier piece comes first.
    let length = |t: &str| t.chars().count();
    let lengths = |(_, a, b): &(f64, &str, &str)| (length(a), length(b));
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then(lengths(y).cmp(&lengths(x))));
    let merges: Vec<_> = merges.into_iter().map(|(_, a, b)| json!([a, b])).collect();
    let vocabulary: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(i, t)| ((*t).to_owned(), json!(i))).collect();
    let added = special(&tokens, get("token_type").and_then(Value::list).unwrap_or_default());
    let unknown = get("unknown_token_id").and_then(Value::size).and_then(|i| tokens.get(i).copied());
    let unknown = unknown.or(places.get("<unk>").map(|&i| tokens[i]));
    let before = !matches!(get("add_space_prefix"), Some(Value::Bool(false)));
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let normalizer = match before {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}),
        false => spaces,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if before {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": null, "post_processor": before_texts(archive, &tokens, true), "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocabulary, "merges": merges},
    });
    Ok(json.to_string().into_bytes())
}
