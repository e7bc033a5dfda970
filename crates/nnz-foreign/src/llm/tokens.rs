//! Texts to tokens and back, by the `tokenizers` crate.

use super::{patterns, patterns::Patterns, sentencepiece};
use crate::{Error, Result};
use nnz_formats::{Archive, Value};
use serde_json::json;
use std::io::Read;
use std::path::Path;
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokens {
    inner: Tokenizer,
    patterns: Patterns,
    /// Its `tokenizer.json`.
    pub json: Vec<u8>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}

impl Tokens {
    /// Reads `tokenizer.json`, or a GGUF file's own vocabulary.
    ///
    /// # Errors
    /// When there is none, it is of an unsupported kind, or it has tokens that the model lacks.
    pub fn of(archive: &Archive, vocabulary: usize) -> Result<Self> {
        let fail = |path: &Path, why: String| Error::file(path, why);
        let inside = (archive.kind == "GGUF").then(|| from_gguf(archive));
        let (place, json) = match (&archive.tokenizer, inside) {
            (_, Some(Ok(json))) => (archive.path.clone(), json),
            (None, Some(Err(why))) => {
                let why = format!("{why}; the model's tokenizer.json, put beside the file, will do");
                return Err(fail(&archive.path, why));
            }
            (Some(path), _) => {
                (path.clone(), std::fs::read(path).map_err(|e| fail(path, format!("cannot read: {e}")))?)
            }
            (None, _) => {
                return Err(fail(
                    &archive.path,
                    "there is no tokenizer.json beside the weights; put it into the same folder".into(),
                ));
            }
        };
        let mut tokens = Self::parse(&place, json, Some(vocabulary))?;
        tokens.ends.extend(ends(archive)?);
        if let Some(end) = archive.metadata.get("tokenizer.ggml.eos_token_id").and_then(Value::size) {
            tokens.ends.push(end as u32);
        }
        Ok(tokens)
    }

    /// Opens a `tokenizer.json`, for a model with the given vocabulary size, if that is known.
    ///
    /// # Errors
    /// When it cannot be read, is of an unsupported kind, or has tokens that the model lacks.
    pub fn open(path: &Path, vocabulary: Option<usize>) -> Result<Self> {
        let json = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
        Self::parse(path, json, vocabulary)
    }

    /// Parses a `tokenizer.json`; `place` names it in errors.
    ///
    /// # Errors
    /// When it is of an unsupported kind, or has tokens that the model lacks.
    pub fn parse(place: &Path, json: Vec<u8>, vocabulary: Option<usize>) -> Result<Self> {
        let fail = |why: String| Error::file(place, why);
        let refuse = |why: String| fail(format!("its tokenizer: {why}"));
        patterns::bounded(&json).map_err(refuse)?;
        let mut inner = guarded(|| Tokenizer::from_bytes(&json)).map_err(refuse)?;
        // The file's limits on lengths are meant for another use.
        inner.with_padding(None);
        guarded(|| inner.with_truncation(None).map(drop)).map_err(refuse)?;
        let patterns = Patterns::of(&inner).map_err(refuse)?;
        let most = inner.get_vocab(true).into_values().max().map_or(0, |t| t as usize + 1);
        if let Some(vocabulary) = vocabulary.filter(|&v| most > v) {
            return Err(fail(format!("a tokenizer of {most} tokens for a model that knows {vocabulary}")));
        }
        let ends =
            ["<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>"].iter().filter_map(|t| inner.token_to_id(t)).collect();
        Ok(Self { inner, patterns, json, ends })
    }

    /// Encodes a text with the special tokens that encoders want before and after it, truncated; no padding.
    ///
    /// # Errors
    /// An error of the tokenizer.
    pub fn framed(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        let framed = guarded(|| {
            self.patterns.search(&self.inner, text)?;
            let mut plain = self.inner.encode(text, false)?;
            let added = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
            plain.truncate(most.saturating_sub(added), 0, TruncationDirection::Right);
            self.inner.post_process(plain, None, true)
        });
        Ok(framed.map_err(refused)?.get_ids().to_vec())
    }

    /// Encodes a text that a model goes on with, after the special tokens that the tokenizer puts before it.
    ///
    /// # Errors
    /// An error of the tokenizer.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = guarded(|| {
            self.patterns.search(&self.inner, text)?;
            self.inner.encode(text, true)
        });
        let encoded = encoded.map_err(refused)?;
        let after = encoded.get_special_tokens_mask().iter().rev().take_while(|added| **added == 1).count();
        let ids = encoded.get_ids();
        // Of an empty text everything stays.
        Ok(if after == ids.len() { ids.to_vec() } else { ids[..ids.len() - after].to_vec() })
    }

    /// Encodes a text without special tokens.
    ///
    /// # Errors
    /// An error of the tokenizer.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = guarded(|| {
            self.patterns.search(&self.inner, text)?;
            self.inner.encode(text, false)
        });
        Ok(encoded.map_err(refused)?.get_ids().to_vec())
    }

    /// Decodes tokens to text.
    ///
    /// # Errors
    /// As [`Tokens::encode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(tokens, true)).map_err(refused)
    }
}

/// Tokens that end a text, by `eos_token_id` of a model's configurations.
fn ends(archive: &Archive) -> Result<Vec<u32>> {
    let file = archive.path.join("generation_config.json");
    let generation = match archive.path.is_dir() && file.is_file() {
        false => None,
        true => {
            let json = std::fs::read(&file).map_err(|e| Error::file(&file, format!("cannot read: {e}")))?;
            Some(serde_json::from_slice::<serde_json::Value>(&json).map_err(|e| Error::file(&file, e))?)
        }
    };
    let said = generation.iter().chain(&archive.config).map(|c| &c["eos_token_id"]);
    let one = |v: &serde_json::Value| v.as_u64().map(|t| t as u32);
    Ok(said.flat_map(|v| v.as_array().into_iter().flatten().chain([v]).filter_map(one)).collect())
}

fn refused(why: String) -> Error {
    Error::Refused(format!("the tokenizer: {why}"))
}

/// Calls the `tokenizers` crate, and turns its panics on malformed files into errors.
fn guarded<R>(f: impl FnOnce() -> tokenizers::Result<R>) -> Result<R, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err("what it says of itself does not fit together".into()),
    }
}

/// The assumption that reading a GGUF vocabulary takes, in a sentence.
pub(super) fn assumed(archive: &Archive) -> Option<String> {
    let get = |key: &str| archive.metadata.get(&format!("tokenizer.ggml.{key}"));
    (archive.kind == "GGUF" && get("model").and_then(Value::text) == Some("gpt2") && get("pre").is_none()).then(|| {
        "the file does not say how texts are split before byte-pair encoding; they are split as for gpt-2".into()
    })
}

/// Converts a GGUF vocabulary to a `tokenizer.json`.
fn from_gguf(archive: &Archive) -> Result<Vec<u8>, String> {
    let get = |key: &str| archive.metadata.get(&format!("tokenizer.ggml.{key}"));
    let model = get("model").and_then(Value::text).ok_or("there is no vocabulary in it")?;
    let before = get("pre").and_then(Value::text).unwrap_or("gpt-2");
    if model == "llama" {
        return sentencepiece::json(archive);
    }
    if model != "gpt2" {
        return Err(format!(
            "a tokenizer of kind {model}; byte-pair encoding (`gpt2`) and sentencepiece (`llama`) are read from GGUF files"
        ));
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let words = |digits: &str| {
        let pattern = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ];
        let (split, mut bytes) = (json!({"Regex": pattern.concat()}), bytes.clone());
        let split = json!({"type": "Split", "pattern": split, "behavior": "Isolated", "invert": false});
        bytes["use_regex"] = json!(false);
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    let split = match before {
        "smollm" => {
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes]})
        }
        "gpt-2" => bytes.clone(),
        "llama-bpe" | "llama3" | "llama-v3" => words(r"\p{N}{1,3}"),
        "qwen2" => words(r"\p{N}"),
        other => {
            return Err(format!(
                "texts split as `{other}`; smollm, gpt-2, llama-bpe and qwen2 are read from GGUF files"
            ));
        }
    };
    let normalizer = if before == "qwen2" { json!({"type": "NFC"}) } else { json!(null) };
    // These take whole words of the vocabulary unchanged, whatever the merges say.
    let whole = before.starts_with("llama");
    let texts = |key: &str| -> Result<Vec<&str>, String> {
        let list = get(key).and_then(Value::list).ok_or(format!("it has no tokenizer.ggml.{key}"))?;
        list.iter()
            .map(Value::text)
            .collect::<Option<Vec<_>>>()
            .ok_or(format!("tokenizer.ggml.{key} holds what is no text"))
    };
    let (tokens, merges) = (texts("tokens")?, texts("merges")?);
    let vocabulary: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(i, t)| ((*t).to_owned(), json!(i))).collect();
    let added = special(&tokens, get("token_type").and_then(Value::list).unwrap_or_default());
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": split, "post_processor": before_texts(archive, &tokens, false), "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole,
                  "vocab": vocabulary, "merges": merges},
    });
    Ok(json.to_string().into_bytes())
}

/// What puts the first token before every text, if the file or else `usual` says so.
pub(super) fn before_texts(archive: &Archive, tokens: &[&str], usual: bool) -> serde_json::Value {
    let get = |key: &str| archive.metadata.get(&format!("tokenizer.ggml.{key}"));
    let on = match get("add_bos_token") {
        Some(Value::Bool(on)) => *on,
        _ => usual,
    };
    let id = get("bos_token_id").and_then(Value::size).filter(|_| on);
    let Some((id, token)) = id.and_then(|id| Some((id, *tokens.get(id)?))) else { return json!(null) };
    let part = |name: &str, kind: usize| json!({"Sequence": {"id": name, "type_id": kind}});
    let first = json!({"SpecialToken": {"id": token, "type_id": 0}});
    json!({"type": "TemplateProcessing", "single": [first, part("A", 0)], "pair": [first, part("A", 0), part("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
}

/// Control and user-defined tokens, which are kinds 3 and 4.
pub(super) fn special(tokens: &[&str], kinds: &[Value]) -> Vec<serde_json::Value> {
    let special = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, k))| matches!(k, Value::Int(3 | 4)));
    let entry = |(i, (t, k)): (usize, (&&str, &Value))| {
        json!({"id": i, "content": t, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": *k == Value::Int(3)})
    };
    special.map(entry).collect()
}

/// Largest text, in bytes.
const LONGEST: u64 = 1 << 30;

/// Reads a text in UTF-8, plain or packed by gzip.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn text(path: &Path) -> Result<String> {
    let fail = |why: String| Error::file(path, why);
    let file = std::fs::File::open(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let packed = path.extension().is_some_and(|e| e == "gz");
    let mut bytes = Vec::new();
    let read = match packed {
        true => flate2::read::GzDecoder::new(file).take(LONGEST + 1).read_to_end(&mut bytes),
        false => file.take(LONGEST + 1).read_to_end(&mut bytes),
    };
    read.map_err(|e| fail(format!("cannot read: {e}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(fail("a text of more than 1 GB; give a part of it".into()));
    }
    String::from_utf8(bytes)
        .map_err(|e| fail(format!("byte {} is no UTF-8; save the text as UTF-8", e.utf8_error().valid_up_to())))
}
