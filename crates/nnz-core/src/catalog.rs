//! The papers: which there are, which of them have a method, and whether cards and catalog agree.
//!
//! Two tables in `papers/` are built in. `catalog.tsv` numbers the papers nnz sets out to cover; `baselines.tsv` holds
//! the methods those papers are compared with, which have no number. A paper's key is its method's key.

use crate::{Method, Registry};
use std::sync::LazyLock;

/// One paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number in `catalog.tsv`, from 1; `None` for a baseline.
    pub number: Option<u16>,
    /// Name of its method, in lower case with hyphens.
    pub key: &'static str,
    /// The room its method belongs to.
    pub room: &'static str,
    /// Title.
    pub title: &'static str,
    /// arXiv identifier, or `openreview:` and a forum's.
    pub id: &'static str,
    /// First author and co-authors, short.
    pub authors: &'static str,
    /// Year it appeared.
    pub year: u16,
    /// Journal or conference.
    pub venue: &'static str,
}

/// Where a paper stands.
#[derive(Clone, Copy, Debug)]
pub struct Status<V> {
    /// The paper.
    pub entry: &'static Entry,
    /// The method of its key, where one is registered.
    pub method: Option<&'static Method>,
    /// What the ledger of results holds about it.
    pub verdict: Option<V>,
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let numbered = parse(include_str!("../../../papers/catalog.tsv"), true);
    let baselines = parse(include_str!("../../../papers/baselines.tsv"), false);
    numbered.into_iter().chain(baselines).collect()
});

/// The rows of a built-in table. A row that cannot be read is left out, which the tests below would see.
fn parse(text: &'static str, numbered: bool) -> Vec<Entry> {
    let row = |line: &'static str| {
        let mut cells = line.split('\t');
        let number = if numbered { Some(cells.next()?.parse().ok()?) } else { None };
        let mut text = || cells.next().filter(|cell| !cell.is_empty());
        let (key, room, title, id, authors) = (text()?, text()?, text()?, text()?, text()?);
        let (year, venue) = (text()?.parse().ok()?, text()?);
        cells.next().is_none().then_some(Entry { number, key, room, title, id, authors, year, venue })
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Every paper: the numbered ones in order, then the baselines.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// The paper of that key.
pub fn find(key: &str) -> Option<&'static Entry> {
    entries().iter().find(|e| e.key == key)
}

/// For every paper, whether a method of its key is registered, and what `ledger` knows of its results.
pub fn status<V>(registry: Registry, ledger: impl Fn(&'static Entry) -> Option<V>) -> Vec<Status<V>> {
    let method = |entry: &Entry| registry.methods().find(|m| m.key == entry.key);
    entries().iter().map(|entry| Status { entry, method: method(entry), verdict: ledger(entry) }).collect()
}

/// What cards and catalog disagree about, one sentence each; empty when all is well.
///
/// Every method must be listed: with its number in `catalog.tsv`, or without one in `baselines.tsv`; and its key, room,
/// title and identifier must be those listed.
pub fn check(registry: Registry) -> Vec<String> {
    let mut problems = Vec::new();
    for (i, method) in registry.methods().enumerate() {
        let (key, paper) = (method.key, &method.paper);
        if registry.methods().take(i).any(|other| other.key == key) {
            problems.push(format!("method `{key}` is registered twice"));
        }
        let listed = match paper.number {
            Some(number) => entries().iter().find(|e| e.number == Some(number)),
            None => entries().iter().find(|e| e.number.is_none() && e.key == key),
        };
        let Some(entry) = listed else {
            problems.push(match (paper.number, find(key)) {
                (Some(n), _) => format!("method `{key}` names paper {n}, which papers/catalog.tsv does not have"),
                (None, Some(Entry { number: Some(n), .. })) => {
                    format!("method `{key}` has no paper number, but papers/catalog.tsv lists it as {n}")
                }
                (None, _) => format!("method `{key}` has no paper number and is not in papers/baselines.tsv"),
            });
            continue;
        };
        let fields = [
            ("key", key, entry.key),
            ("room", method.room, entry.room),
            ("title", paper.title, entry.title),
            ("identifier", paper.arxiv, entry.id),
        ];
        for (field, card, list) in fields.into_iter().filter(|(_, card, list)| card != list) {
            problems.push(format!("method `{key}`: its card has {field} `{card}`, the list of papers has `{list}`"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Build, Paper, Result, Setting, Work};
    use serde::{Deserialize, Serialize};
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

    #[derive(Default, Serialize, Deserialize)]
    struct NoOptions {}

    impl Build for NoOptions {
        fn build(self, _: &Setting) -> Result<Work> {
            Err(crate::Error::Refused("a card for tests has no method".into()))
        }
    }

    const fn card(key: &'static str, room: &'static str, paper: Paper) -> Method {
        Method::new::<NoOptions>(key, key, room, "For tests.", paper)
    }

    const GMP: Paper = Paper {
        number: Some(115),
        title: "To prune, or not to prune: exploring the efficacy of pruning for model compression",
        authors: "Zhu & Gupta",
        year: 2017,
        venue: "ICLR 2018 workshop",
        arxiv: "1710.01878",
    };
    const RIGL: Paper = Paper {
        number: None,
        title: "Rigging the Lottery: Making All Tickets Winners",
        authors: "Evci et al.",
        year: 2020,
        venue: "ICML 2020",
        arxiv: "1911.11134",
    };

    #[test]
    fn cards_that_agree_pass() {
        static CARDS: [Method; 2] = [card("gmp", "prune", GMP), card("rigl", "rewire", RIGL)];
        const REGISTRY: Registry = Registry(&[&[&CARDS[0]], &[&CARDS[1]]]);
        assert_eq!(check(REGISTRY), Vec::<String>::new());
        let all = status(REGISTRY, |e| (e.key == "gmp").then_some("holds"));
        assert_eq!(all.len(), entries().len());
        let registered: Vec<_> = all.iter().filter(|s| s.method.is_some()).map(|s| s.entry.key).collect();
        assert_eq!(registered, ["gmp", "rigl"]);
        let judged: Vec<_> = all.iter().filter_map(|s| s.verdict.map(|v| (s.entry.number, v))).collect();
        assert_eq!(judged, [(Some(115), "holds")]);
    }

    #[test]
    fn cards_that_disagree_are_named() {
        static CARDS: [Method; 8] = [
            card("gpm", "prune", GMP),
            card("gmp", "rewire", GMP),
            card("gmp", "prune", Paper { title: "To prune", ..GMP }),
            card("gmp", "prune", Paper { arxiv: "1710.01879", ..GMP }),
            card("gmp", "prune", Paper { number: Some(209), ..GMP }),
            card("gmp", "prune", Paper { number: None, ..GMP }),
            card("rigel", "rewire", RIGL),
            card("rigl", "rewire", Paper { number: Some(115), ..RIGL }),
        ];
        let found = |i: usize| {
            const REGISTRIES: [Registry; 8] = [
                Registry(&[&[&CARDS[0]]]),
                Registry(&[&[&CARDS[1]]]),
                Registry(&[&[&CARDS[2]]]),
                Registry(&[&[&CARDS[3]]]),
                Registry(&[&[&CARDS[4]]]),
                Registry(&[&[&CARDS[5]]]),
                Registry(&[&[&CARDS[6]]]),
                Registry(&[&[&CARDS[7]]]),
            ];
            check(REGISTRIES[i])
        };
        let expected = [
            "has key `gpm`, the list of papers has `gmp`",
            "has room `rewire`, the list of papers has `prune`",
            "has title `To prune`",
            "has identifier `1710.01879`",
            "names paper 209",
            "lists it as 115",
            "is not in papers/baselines.tsv",
        ];
        for (i, part) in expected.into_iter().enumerate() {
            let problems = found(i);
            assert!(problems.len() == 1 && problems[0].contains(part), "{i}: {problems:?}");
        }
        assert_eq!(found(7).len(), 4, "{:?}", found(7));
        const TWICE: Registry = Registry(&[&[&CARDS[0], &CARDS[0]]]);
        assert!(check(TWICE).iter().any(|p| p.contains("registered twice")));
    }
}
