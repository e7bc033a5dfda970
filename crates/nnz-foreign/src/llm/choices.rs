//! Questions with several answers, of which a model should find the right one the likeliest.

use super::{Language, Tokens, Weights, text};
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::Path;

/// Tokens of the sequences that go through a model at once.
const AT_ONCE: usize = 32_768;

/// A context, and texts that may follow it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What comes before.
    pub context: String,
    /// What may come next; two or more.
    pub candidates: Vec<String>,
    /// Index of the right one.
    pub right: usize,
    /// Line of the file.
    pub line: usize,
}

/// Scores of the candidates of one question.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Answer {
    /// Sum of ln p over the tokens of each candidate.
    pub sums: Vec<f64>,
    /// The same over its number of characters.
    pub by_length: Vec<f64>,
    /// Index of the right one.
    pub right: usize,
}

impl Answer {
    /// Whether the right candidate has the largest sum, and the largest sum by length; of equal ones the first counts.
    pub fn hits(&self) -> [bool; 2] {
        [&self.sums, &self.by_length].map(|scores| self.right == largest(scores))
    }

    /// Indices of the candidates with the largest sum, and the largest sum by length.
    pub fn chosen(&self) -> [usize; 2] {
        [&self.sums, &self.by_length].map(|scores| largest(scores))
    }
}

fn largest(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// Reads questions from lines of cells with tabs between: the context, two or more candidates, and the number of the right one, from 0. In
/// cells `\n`, `\t` and `\\` stand for a line break, a tab and a backslash.
///
/// # Errors
/// When the file cannot be read, has no questions, or a line is none; by its number.
pub fn questions(path: &Path) -> Result<Vec<Question>> {
    let all = text(path)?;
    let fail = |line: usize, why: String| Error::file(path, format!("line {line}: {why}"));
    let mut found = Vec::new();
    for (index, row) in all.lines().enumerate() {
        let line = index + 1;
        if row.is_empty() {
            continue;
        }
        let cells: Vec<&str> = row.split('\t').collect();
        let [context, candidates @ .., right] = &cells[..] else {
            return Err(fail(
                line,
                "one cell; give a context, the candidates and the number of the right one, with tabs between".into(),
            ));
        };
        if candidates.len() < 2 {
            return Err(fail(
                line,
                format!(
                    "{} cells; give a context, two or more candidates and the number of the right one",
                    cells.len()
                ),
            ));
        }
        let plain = |cell: &str| plain(cell).map_err(|why| fail(line, why));
        let right = match right.trim().parse::<usize>() {
            Ok(right) if right < candidates.len() => right,
            _ => {
                return Err(fail(
                    line,
                    format!(
                        "the last cell is {right:?}; give the number of the right candidate, from 0 to {}",
                        candidates.len() - 1
                    ),
                ));
            }
        };
        let candidates = candidates.iter().map(|c| plain(c)).collect::<Result<Vec<_>>>()?;
        if candidates.iter().any(String::is_empty) {
            return Err(fail(line, "a candidate is empty; give it a text".into()));
        }
        found.push(Question { context: plain(context)?, candidates, right, line });
    }
    match found.is_empty() {
        true => {
            Err(Error::file(path, "no questions; give lines of a context, candidates and the number of the right one"))
        }
        false => Ok(found),
    }
}

/// A cell without escapes.
fn plain(cell: &str) -> Result<String, String> {
    let mut out = String::with_capacity(cell.len());
    let mut signs = cell.chars();
    while let Some(sign) = signs.next() {
        out.push(match sign {
            '\\' => match signs.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('\\') => '\\',
                other => {
                    let other = other.map_or_else(|| "at the end of a cell".into(), |c| format!("before {c:?}"));
                    return Err(format!(
                        "a backslash {other}; write \\\\ for a backslash, \\n for a line break, \\t for a tab"
                    ));
                }
            },
            sign => sign,
        });
    }
    Ok(out)
}

/// What follows a context: a space comes between unless one of them has white space there, or the context is empty.
fn joined(context: &str, candidate: &str) -> String {
    let apart =
        context.is_empty() || context.ends_with(char::is_whitespace) || candidate.starts_with(char::is_whitespace);
    format!("{context}{}{candidate}", if apart { "" } else { " " })
}

/// One candidate after its context, and where its own tokens begin: after those that it shares with the context alone.
fn sequence(
    tokens: &Tokens,
    question: &Question,
    candidate: &str,
    most: usize,
    path: &Path,
) -> Result<(Vec<u32>, usize)> {
    let fail = |why: String| Error::file(path, format!("line {}: {why}", question.line));
    let (alone, all) = (tokens.prompt(&question.context)?, tokens.prompt(&joined(&question.context, candidate))?);
    let start = alone.iter().zip(&all).take_while(|(a, b)| a == b).count();
    if start == 0 {
        return Err(fail(
            "no token of the context comes before the candidate, and this tokenizer puts none there; give a longer context".into(),
        ));
    }
    if start == all.len() {
        return Err(fail(format!("the candidate {candidate:?} has no token of its own; give it a longer text")));
    }
    if all.len() > most {
        return Err(fail(format!("{} tokens for a model that was made for {most}; give a shorter context", all.len())));
    }
    Ok((all, start))
}

/// Scores the candidates of every question. `tick` is called with the number of questions done.
///
/// # Errors
/// When a weight cannot be read, or a question is longer than what the model reads, or has a candidate without a token of its own.
pub fn answers(
    model: &Language,
    tokens: &Tokens,
    questions: &[Question],
    path: &Path,
    mut tick: impl FnMut(usize),
) -> Result<Vec<Answer>> {
    let most = model.config.context;
    let mut all = Vec::new();
    for question in questions {
        for candidate in &question.candidates {
            all.push(sequence(tokens, question, candidate, most, path)?);
        }
    }
    let mut sums = Vec::with_capacity(all.len());
    let mut rest = &all[..];
    let ends: Vec<usize> = questions
        .iter()
        .scan(0, |end, q| {
            *end += q.candidates.len();
            Some(*end)
        })
        .collect();
    while !rest.is_empty() {
        let mut count = 0;
        let mut taken = 0;
        while count < rest.len() && (count == 0 || taken + rest[count].0.len() <= AT_ONCE) {
            taken += rest[count].0.len();
            count += 1;
        }
        let (now, later) = rest.split_at(count);
        sums.extend(likelihoods(model, now)?);
        rest = later;
        tick(ends.partition_point(|end| *end <= sums.len()));
    }
    let mut sums = sums.into_iter();
    let answer = |q: &Question| {
        let sums: Vec<f64> = sums.by_ref().take(q.candidates.len()).collect();
        let length = |c: &String| c.trim().chars().count().max(1) as f64;
        let by_length = sums.iter().zip(&q.candidates).map(|(sum, c)| sum / length(c)).collect();
        Answer { sums, by_length, right: q.right }
    };
    Ok(questions.iter().map(answer).collect())
}

/// Sum of ln p of the tokens of each sequence from a position on.
fn likelihoods(model: &Language, sequences: &[(Vec<u32>, usize)]) -> Result<Vec<f64>> {
    let mut states = sequences.iter().map(|(tokens, _)| model.begin(tokens)).collect::<Result<Vec<_>>>()?;
    for layer in 0..model.config.layers {
        let block = model.block(layer, &Weights::Dense)?;
        states.iter_mut().for_each(|s| model.advance(&block, s, None));
    }
    let head = model.head()?;
    let width = model.config.vocabulary;
    let of = |(state, (tokens, start)): (&_, &(Vec<u32>, usize))| {
        let logits = model.logits(&head, state, start - 1..tokens.len() - 1);
        let parts: Vec<f64> =
            logits.par_chunks(width).zip(&tokens[*start..]).map(|(row, &t)| -super::surprise(row, t)).collect();
        parts.iter().sum::<f64>()
    };
    Ok(states.iter().zip(sequences).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_bad_lines_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("q.tsv");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            questions(&file).map_err(|e| e.to_string())
        };
        let two = read("A cat\\nsat on\tthe mat\tthe moon\t0\n\nx\ta\\\\b\tc\td\t2\n").unwrap();
        assert_eq!(two[0].context, "A cat\nsat on");
        assert_eq!((two[1].candidates[0].as_str(), two[1].right, two[1].line), ("a\\b", 2, 3));
        for (text, part) in [
            ("", "no questions"),
            ("alone\n", "line 1: one cell"),
            ("c\ta\t0\n", "line 1: 3 cells"),
            (
                "c\ta\tb\t0\nc\ta\tb\t2\n",
                "line 2: the last cell is \"2\"; give the number of the right candidate, from 0 to 1",
            ),
            ("c\ta\tb\tright\n", "\"right\""),
            ("c\ta\t\t0\n", "a candidate is empty"),
            ("c\\x\ta\tb\t0\n", "a backslash before 'x'"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(part), "{text:?}: {why}");
        }
    }

    #[test]
    fn a_space_comes_between_words_only() {
        assert_eq!(joined("a", "b"), "a b");
        assert_eq!([joined("a ", "b"), joined("a", " b"), joined("", "b")], ["a b", "a b", "b"]);
    }

    #[test]
    fn the_first_of_equals_is_chosen() {
        let answer = Answer { sums: vec![-2.0, -2.0, -3.0], by_length: vec![-1.0, -0.5, -3.0], right: 1 };
        assert_eq!((answer.chosen(), answer.hits()), ([0, 1], [false, true]));
    }
}
