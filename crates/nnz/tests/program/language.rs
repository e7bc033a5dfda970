//! Language models from the command line: generation, questions, agreement.

use crate::lines::nnz;
use serde_json::Value;
use std::path::Path;

fn copy(name: &str, to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/formats").join(name);
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

fn json(dir: &Path, words: &[&str]) -> Value {
    let (code, out, errors) = nnz(dir, &[words, &["--json"]].concat());
    assert_eq!(code, Some(0), "nnz {words:?}: {errors}");
    serde_json::from_str(&out).unwrap()
}

fn refused(dir: &Path, words: &[&str], part: &str) {
    let (code, _, errors) = nnz(dir, words);
    assert!(code == Some(2) && errors.contains(part), "nnz {words:?}: {errors}");
}

/// Greedy words are those of transformers; samples follow the seed and the candidates.
#[test]
fn a_text_goes_on_as_in_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    copy("mistral", &d.join("mistral"));
    let said: Value = serde_json::from_slice(&std::fs::read(d.join("mistral/logits.json")).unwrap()).unwrap();
    let list = |v: &Value| v.as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect::<Vec<_>>();
    // The tokenizer adds the first token itself.
    let prompt = list(&said["tokens"])[1..].iter().map(|t| format!("w{t}")).collect::<Vec<_>>().join(" ");
    // Token 2 ends a text by the configuration.
    let greedy: Vec<u64> = list(&said["greedy"]).into_iter().take_while(|t| *t != 2).collect();
    let found = json(d, &["generate", "mistral", &prompt, "--tokens", "8"]);
    assert_eq!(list(&found["tokens"]), greedy);
    assert_eq!(found["prompt_tokens"], said["tokens"].as_array().unwrap().len());
    assert_eq!(json(d, &["predict", "mistral", &prompt, "--tokens", "8"])["tokens"], found["tokens"], "one code path");
    let one = ["generate", "mistral", &prompt, "--tokens", "8", "--temperature", "2", "--top-k", "1"];
    assert_eq!(json(d, &one)["tokens"], found["tokens"], "the likeliest is the only candidate");
    let sampled = |seed: &str| {
        let more = ["--temperature", "3", "--top-k", "20", "--top-p", "0.9", "--seed", seed];
        json(d, &[&["generate", "mistral", &prompt, "--tokens", "8"][..], &more].concat())["tokens"].clone()
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert!((2..6).any(|seed| sampled(&seed.to_string()) != sampled("1")));
    for (more, part) in [
        (&["--top-k", "3"][..], "--top-k is for sampling; give a --temperature"),
        (&["--seed", "3"], "--seed is for sampling"),
        (&["--temperature", "1", "--top-p", "0"], "--top-p above 0"),
        (&["--temperature", "nan"], "--temperature is zero or more"),
        (&["--tokens", "60"], "for a model that was made for 64"),
    ] {
        refused(d, &[&["generate", "mistral", &prompt], more].concat(), part);
    }
    refused(d, &["generate", "no/such", "text"], "no/such");
}

#[test]
fn a_language_model_answers_questions_and_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    copy("mistral", &d.join("mistral"));
    let questions: String =
        (0..40).map(|i| format!("w{} w{} w{}\tw{}\tw{}\t{}\n", i, i + 7, 2 * i % 60, i + 3, i + 11, i % 2)).collect();
    std::fs::write(d.join("q.tsv"), &questions).unwrap();
    let text: String = (0..300).map(|i| format!("w{} ", (i * i * 7 + i) % 64)).collect();
    std::fs::write(d.join("text.txt"), text).unwrap();
    let prune = ["prune", "mistral", "--method", "magnitude", "--density", "0.1", "-o", "small"];
    let (code, _, errors) = nnz(d, &prune);
    assert_eq!(code, Some(0), "{errors}");
    let found = json(d, &["eval", "small", "q.tsv", "--against", "mistral"]);
    assert_eq!((&found["questions"], &found["chance"]), (&Value::from(40), &Value::from(0.5)));
    let alone = json(d, &["eval", "mistral", "q.tsv"]);
    assert_eq!(found["against"]["by_sum"]["accuracy"], alone["by_sum"]["accuracy"]);
    for how in ["by_sum", "by_length"] {
        let right = alone["answers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|a| {
                let key = if how == "by_sum" { "sums" } else { "by_length" };
                let scores: Vec<f64> = a[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                (scores[1] > scores[0]) == (a["right"] == 1)
            })
            .count();
        assert_eq!(alone[how]["right"], right);
        let interval: Vec<f64> = serde_json::from_value(alone[how]["interval"].clone()).unwrap();
        let accuracy = right as f64 / 40.0;
        assert!(interval[0] < accuracy && accuracy < interval[1] && interval[1] - interval[0] < 0.32, "{interval:?}");
        let difference = found["against"][how]["difference"]["mean"].as_f64().unwrap();
        let of = |v: &Value| v[how]["accuracy"].as_f64().unwrap();
        assert!((difference - (of(&found) - of(&alone))).abs() < 1e-9);
        assert!(found["against"][how]["same_choice"].as_f64().unwrap() < 1.0, "it was pruned");
    }
    let itself = json(d, &["eval", "mistral", "q.tsv", "--against", "mistral"]);
    assert_eq!(itself["against"]["by_sum"]["same_choice"], 1.0);
    // Next tokens on a text.
    let compared = |other: &str| {
        json(d, &["perplexity", "small", "text.txt", "--length", "32", "--against", other, "--overlap", "4"])
    };
    let (same, less) = (compared("small"), compared("mistral"));
    let share = |v: &Value, key: &str| v[key]["mean"].as_f64().unwrap();
    assert_eq!((share(&same, "same_next_token"), share(&same, "overlap")), (1.0, 1.0));
    assert!(share(&less, "same_next_token") < 1.0 && share(&less, "overlap") > 0.0 && less["overlap_of"] == 4);
    let (_, words, _) = nnz(d, &["perplexity", "small", "text.txt", "--length", "32", "--against", "mistral"]);
    assert!(words.contains("the same next token at") && words.contains("of the 5 likeliest are common"), "{words}");
    let (_, words, _) = nnz(d, &["eval", "small", "q.tsv", "--against", "mistral"]);
    assert!(words.contains("40 questions of q.tsv") && words.contains("same choice"), "{words}");
    refused(d, &["eval", "mistral"], "give a file of questions");
    refused(d, &["eval", "mistral", "q.tsv", "--split", "all"], "--split is for data sets");
    refused(d, &["eval", "mistral", "text.txt"], "text.txt: line 1: one cell");
    refused(d, &["perplexity", "mistral", "text.txt", "--overlap", "3"], "--against");
}
