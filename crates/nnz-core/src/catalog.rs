//! The catalog of papers, and which of them have a method.
//!
//! Two tables in `papers/` are built in. `catalog.tsv` numbers the papers nnz sets out to cover; `baselines.tsv` holds
//! the methods those papers are compared with, without numbers. A paper's key is its method's key, by which
//! a card looks up its paper and its room here.

use crate::{Method, Registry};

/// One paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number in `catalog.tsv`, from 1; `None` for a baseline.
    pub number: Option<u16>,
    /// Key of its method, in lower case with hyphens.
    pub key: &'static str,
    /// The room its method belongs to.
    pub room: &'static str,
    /// Title.
    pub title: &'static str,
    /// arXiv identifier, or `openreview:` and a forum's identifier.
    pub id: &'static str,
    /// First author and co-authors, short.
    pub authors: &'static str,
    /// Year of publication.
    pub year: u16,
    /// Journal or conference.
    pub venue: &'static str,
}

impl Entry {
    /// An entry that neither table has, for methods that are kept elsewhere.
    pub const fn unlisted(key: &'static str, room: &'static str) -> Self {
        Self { number: None, key, room, title: "", id: "", authors: "", year: 0, venue: "" }
    }
}

/// State of a paper: its method and its results.
#[derive(Clone, Copy, Debug)]
pub struct Status<V> {
    /// The paper.
    pub entry: &'static Entry,
    /// The method with its key, if one is registered.
    pub method: Option<&'static Method>,
    /// Verdict in the ledger of results.
    pub verdict: Option<V>,
}

const CATALOG: &str = include_str!("../../../papers/catalog.tsv");
const BASELINES: &str = include_str!("../../../papers/baselines.tsv");
const COUNT: usize = lines(CATALOG) + lines(BASELINES) - 2;

/// Both tables, parsed at compile time: a malformed line is a compile error.
static ENTRIES: [Entry; COUNT] = parse();

/// Counts the lines of a text that ends with a newline.
const fn lines(text: &str) -> usize {
    let (bytes, mut at, mut count) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        count += (bytes[at] == b'\n') as usize;
        at += 1;
    }
    count
}

/// Splits a text at the first `end`: what precedes it and what follows.
const fn until(text: &'static str, end: u8) -> (&'static str, &'static str) {
    let (bytes, mut at) = (text.as_bytes(), 0);
    while bytes[at] != end {
        at += 1;
    }
    let (before, rest) = text.split_at(at);
    (before, rest.split_at(1).1)
}

const fn number(text: &str) -> u16 {
    let (bytes, mut at, mut n) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        assert!(bytes[at].is_ascii_digit(), "a number of papers/*.tsv has what is no digit");
        n = n * 10 + (bytes[at] - b'0') as u16;
        at += 1;
    }
    n
}

const fn parse() -> [Entry; COUNT] {
    let (mut all, mut at) = ([Entry::unlisted("", ""); COUNT], 0);
    let (numbered, mut text) = (lines(CATALOG) - 1, until(CATALOG, b'\n').1);
    while at < COUNT {
        if at == numbered {
            text = until(BASELINES, b'\n').1;
        }
        let number_of = if at < numbered {
            let (cell, rest) = until(text, b'\t');
            text = rest;
            Some(number(cell))
        } else {
            None
        };
        let (key, rest) = until(text, b'\t');
        let (room, rest) = until(rest, b'\t');
        let (title, rest) = until(rest, b'\t');
        let (id, rest) = until(rest, b'\t');
        let (authors, rest) = until(rest, b'\t');
        let (year, rest) = until(rest, b'\t');
        let (venue, rest) = until(rest, b'\n');
        text = rest;
        all[at] = Entry { number: number_of, key, room, title, id, authors, year: number(year), venue };
        at += 1;
    }
    all
}

const fn equal(a: &str, b: &str) -> bool {
    let (a, b, mut at) = (a.as_bytes(), b.as_bytes(), 0);
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Looks up the line of `key` at compile time.
pub(crate) const fn listed(key: &str) -> Entry {
    let mut at = 0;
    while at < COUNT {
        if equal(ENTRIES[at].key, key) {
            return ENTRIES[at];
        }
        at += 1;
    }
    panic!("neither papers/catalog.tsv nor papers/baselines.tsv has this key")
}

/// Returns every paper: the numbered ones in order, then the baselines.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// Finds the paper with that key.
pub fn find(key: &str) -> Option<&'static Entry> {
    entries().iter().find(|e| e.key == key)
}

/// Returns for every paper its method, if registered, and what `ledger` knows of its results.
pub fn status<V>(registry: Registry, ledger: impl Fn(&'static Entry) -> Option<V>) -> Vec<Status<V>> {
    let method = |entry: &Entry| registry.methods().find(|m| m.key == entry.key);
    entries().iter().map(|entry| Status { entry, method: method(entry), verdict: ledger(entry) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Build, MethodInstance, Result, Setting};
    use std::collections::HashSet;

    const ROOMS: [(&str, usize); 23] = [
        ("prune", 19),
        ("tickets", 11),
        ("rewire", 9),
        ("structured", 5),
        ("activation", 7),
        ("attention", 3),
        ("experts", 7),
        ("features", 16),
        ("retrieval", 5),
        ("memory", 9),
        ("spiking", 3),
        ("dynamics", 6),
        ("probabilistic", 9),
        ("topology", 6),
        ("geometry", 10),
        ("manifold", 8),
        ("graph", 11),
        ("space", 10),
        ("fields", 10),
        ("vision", 7),
        ("search", 15),
        ("theory", 17),
        ("kernels", 5),
    ];

    #[test]
    fn every_number_is_there_once() {
        let numbers: Vec<u16> = entries().iter().filter_map(|e| e.number).collect();
        assert_eq!(numbers, (1..=208).collect::<Vec<u16>>());
        let lines = include_str!("../../../papers/baselines.tsv").lines().count();
        assert_eq!(entries().len(), 208 + lines - 1, "every baseline is read");
    }

    #[test]
    fn keys_are_unique_and_kebab_case() {
        let mut seen = HashSet::new();
        for Entry { key, .. } in entries() {
            assert!(seen.insert(key), "{key} twice");
            let plain =
                |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            assert!(key.split('-').all(plain), "{key}");
            assert_eq!(find(key).map(|e| e.key), Some(*key));
        }
        assert!(find("no-such-paper").is_none());
    }

    #[test]
    fn rooms_have_their_papers() {
        for (room, count) in ROOMS {
            assert_eq!(entries().iter().filter(|e| e.number.is_some() && e.room == room).count(), count, "{room}");
        }
        assert!(entries().iter().all(|e| ROOMS.iter().any(|(room, _)| *room == e.room)));
    }

    #[test]
    fn cells_are_clean() {
        let mut ids = HashSet::new();
        for e in entries() {
            assert!([e.title, e.id, e.authors, e.venue].iter().all(|cell| *cell == cell.trim()), "{e:?}");
            let arxiv = e.id.split_once('.').is_some_and(|(month, serial)| {
                month.len() == 4 && matches!(serial.len(), 4 | 5) && format!("{month}{serial}").parse::<u64>().is_ok()
            });
            assert!(arxiv || e.id.starts_with("openreview:"), "{e:?}");
            assert!(ids.insert(e.id), "{} twice", e.id);
            assert!((1980..2100).contains(&e.year), "{e:?}");
        }
    }

    /// The page about the rooms lists them in this order with these counts.
    #[test]
    fn the_page_about_rooms_is_true() {
        let page = include_str!("../../../docs/src/rooms.md");
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let room = cells.next()?.split('`').next()?.to_string();
            Some((room, cells.next_back().filter(|c| !c.is_empty()).map_or(0, |c| c.parse().unwrap_or(0))))
        };
        let rows: Vec<(String, usize)> =
            page.lines().filter_map(|line| row(line.trim_end().strip_suffix('|')?)).collect();
        let rows: Vec<(&str, usize)> = rows.iter().map(|(room, count)| (room.as_str(), *count)).collect();
        assert_eq!(rows, ROOMS);
    }

    mod gmp {
        crate::options! {}
    }

    impl Build for gmp::Options {
        fn build(self, _: &Setting) -> Result<MethodInstance> {
            Err(crate::Error::Refused("a card for tests has no method".into()))
        }
    }

    const GMP: Method = Method::new::<gmp::Options>("gmp", "GMP", "For tests.");
    const RIGL: Method = Method::new::<gmp::Options>("rigl", "RigL", "For tests.");

    #[test]
    fn a_card_takes_its_paper_and_its_room_from_the_line_of_its_key() {
        const REGISTRY: Registry = Registry(&[&[&GMP], &[&RIGL]]);
        assert_eq!((GMP.room, GMP.paper.number, GMP.paper.arxiv), ("prune", Some(115), "1710.01878"));
        assert_eq!((RIGL.room, RIGL.paper.number, RIGL.paper.authors), ("rewire", None, "Evci et al."));
        let all = status(REGISTRY, |e| (e.key == "gmp").then_some("holds"));
        assert_eq!(all.len(), entries().len());
        let registered: Vec<_> = all.iter().filter(|s| s.method.is_some()).map(|s| s.entry.key).collect();
        assert_eq!(registered, ["gmp", "rigl"]);
        let judged: Vec<_> = all.iter().filter_map(|s| s.verdict.map(|v| (s.entry.number, v))).collect();
        assert_eq!(judged, [(Some(115), "holds")]);
        assert!(GMP.paper.bibtex("gmp").contains("author = {Zhu and Gupta}"));
        assert!(RIGL.paper.bibtex("rigl").contains("author = {Evci and others}"));
    }

    #[test]
    fn lines_are_read_to_their_last_cell() {
        let first = entries()[0];
        assert_eq!((first.number, first.key, first.venue), (Some(1), "serene", "IEEE TNNLS"));
        let last = BASELINES.trim_end().lines().last().unwrap();
        let e = entries().last().unwrap();
        let joined = [e.key, e.room, e.title, e.id, e.authors, &e.year.to_string(), e.venue].join("\t");
        assert_eq!(joined, last);
    }
}
