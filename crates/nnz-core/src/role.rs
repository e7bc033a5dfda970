//! Roles of layers in their network, and which of them a method may prune.

use crate::{Error, Names, Result, Shape, closest};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a weight does in its network, as its layer says. Recipes and options name roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerRole {
    /// A layer without a role of its own.
    #[default]
    Linear,
    /// A kernel.
    Convolution,
    /// Any of the four matrices of attention.
    Attention,
    /// Queries of attention.
    Query,
    /// Keys of attention.
    Key,
    /// Values of attention.
    Value,
    /// Output of attention.
    Output,
    /// Any of the matrices of the perceptron in a transformer's block.
    Mlp,
    /// Gate of that perceptron.
    Gate,
    /// Into the hidden units of that perceptron.
    Up,
    /// Out of them.
    Down,
    /// Into or along the state of a recurrent layer.
    Recurrent,
    /// Mixes the features of a graph's nodes.
    Graph,
    /// Chooses the experts of an input.
    Router,
    /// The experts' own weights.
    Expert,
    /// The edges of the graph that the data lie on.
    Edges,
    /// The classifier at the end of the network, whatever else it is.
    Head,
}

impl LayerRole {
    /// All roles.
    pub const ALL: [Self; 17] = [
        Self::Linear,
        Self::Convolution,
        Self::Attention,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Mlp,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::Recurrent,
        Self::Graph,
        Self::Router,
        Self::Expert,
        Self::Edges,
        Self::Head,
    ];

    /// Whether it is the default, for serde.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The wider role that it is a part of.
    fn wider(self) -> Option<Self> {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => Some(Self::Attention),
            Self::Gate | Self::Up | Self::Down => Some(Self::Mlp),
            _ => None,
        }
    }

    /// Whether a weight has this role. The head has no other.
    pub fn covers(self, shape: &Shape) -> bool {
        let own = if shape.head { Self::Head } else { shape.role };
        self == own || Some(self) == own.wider()
    }
}

impl fmt::Display for LayerRole {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for LayerRole {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
        names.iter().position(|n| n == text).map(|i| Self::ALL[i]).ok_or_else(|| {
            let hint = closest(text, names.iter().map(String::as_str));
            Error::Refused(format!("no role of layers is named `{text}`{hint}; there are {}", names.join(", ")))
        })
    }
}

/// Layers, by what they do or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LayerSet {
    /// Those of a role.
    Role(LayerRole),
    /// Those of a name, which has a dot, `*` or `?`.
    Named(Names),
}

impl LayerSet {
    /// Whether a weight is of them.
    pub fn covers(&self, shape: &Shape) -> bool {
        match self {
            Self::Role(role) => role.covers(shape),
            Self::Named(names) => names.matches(&shape.name),
        }
    }
}

impl From<LayerRole> for LayerSet {
    fn from(role: LayerRole) -> Self {
        Self::Role(role)
    }
}

impl From<LayerSet> for String {
    fn from(layers: LayerSet) -> Self {
        layers.to_string()
    }
}

impl TryFrom<String> for LayerSet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for LayerSet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::Named(names) => names.fmt(f),
        }
    }
}

impl FromStr for LayerSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(role) => Ok(Self::Role(role)),
            Err(_) if text.contains(['.', '*', '?']) => Ok(Self::Named(text.to_owned().into())),
            Err(e) => Err(Error::Refused(format!("{e}; a name of layers has a dot, * or ?, such as 'fc1*'"))),
        }
    }
}

/// Which weights a method may prune. By default all but the head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Prunable {
    /// Whether the head is among them where `prune` is empty.
    pub head: bool,
    /// Only these; all if empty.
    pub prune: Vec<LayerSet>,
    /// But not these.
    pub keep: Vec<LayerSet>,
}

/// How files keep it: in the plain case, whether the head is among them.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Head(bool),
    Roles { head: bool, prune: Vec<LayerSet>, keep: Vec<LayerSet> },
}

impl From<Written> for Prunable {
    fn from(written: Written) -> Self {
        match written {
            Written::Head(head) => head.into(),
            Written::Roles { head, prune, keep } => Self { head, prune, keep },
        }
    }
}

impl From<Prunable> for Written {
    fn from(p: Prunable) -> Self {
        match p.named() {
            true => Self::Roles { head: p.head, prune: p.prune, keep: p.keep },
            false => Self::Head(p.head),
        }
    }
}

impl From<bool> for Prunable {
    /// All, with the head or without.
    fn from(head: bool) -> Self {
        Self { head, ..Self::default() }
    }
}

impl Prunable {
    /// Whether roles are named.
    pub fn named(&self) -> bool {
        !(self.prune.is_empty() && self.keep.is_empty())
    }

    /// Whether a weight is among them.
    pub fn takes(&self, shape: &Shape) -> bool {
        let named = |layers: &[LayerSet]| layers.iter().any(|l| l.covers(shape));
        let wanted = if self.prune.is_empty() { self.head || !shape.head } else { named(&self.prune) };
        wanted && !named(&self.keep)
    }

    /// Refuses roles and names that no weight of a network has.
    ///
    /// # Errors
    /// With the role or the name, and those that there are.
    pub fn check<'s>(&self, weights: impl Iterator<Item = &'s Shape> + Clone) -> Result<()> {
        let missing = |layers: &&LayerSet| !weights.clone().any(|s| layers.covers(s));
        let role = match self.prune.iter().chain(&self.keep).find(missing) {
            None => return Ok(()),
            Some(LayerSet::Named(names)) => return names.check(weights.map(|s| s.name.as_str())),
            Some(LayerSet::Role(role)) => role,
        };
        let mut roles: Vec<LayerRole> = weights.map(|s| if s.head { LayerRole::Head } else { s.role }).collect();
        roles.sort_unstable();
        roles.dedup();
        let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
        Err(Error::Refused(format!("no weight of this network has the role `{role}`; it has {}", roles.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(role: LayerRole) -> Shape {
        Shape { role, ..Shape::matrix("w", 2, 2) }
    }

    #[test]
    fn roles_say_what_is_pruned() {
        let head = Shape { head: true, ..Shape::matrix("head", 2, 2) };
        let (query, up, plain) = (shape(LayerRole::Query), shape(LayerRole::Up), shape(LayerRole::Linear));
        let taken = |p: &Prunable| [&query, &up, &plain, &head].map(|s| p.takes(s));
        assert_eq!(taken(&Prunable::default()), [true, true, true, false]);
        assert_eq!(taken(&true.into()), [true; 4]);
        let of = |prune: &[LayerRole], keep: &[LayerRole]| {
            let layers = |roles: &[LayerRole]| roles.iter().map(|&r| r.into()).collect();
            Prunable { head: true, prune: layers(prune), keep: layers(keep) }
        };
        assert_eq!(taken(&of(&[LayerRole::Attention], &[])), [true, false, false, false]);
        assert_eq!(taken(&of(&[LayerRole::Mlp, LayerRole::Head], &[])), [false, true, false, true]);
        assert_eq!(taken(&of(&[], &[LayerRole::Attention, LayerRole::Head])), [false, true, true, false]);
        assert_eq!(taken(&of(&[LayerRole::Mlp], &[LayerRole::Up])), [false; 4]);
        // The head is a linear layer, too, but only its own name reaches it.
        assert_eq!(taken(&of(&[LayerRole::Linear], &[])), [false, false, true, false]);
        let all = [query, plain];
        of(&[LayerRole::Linear], &[LayerRole::Attention]).check(all.iter()).unwrap();
        let why = of(&[], &[LayerRole::Mlp]).check(all.iter()).unwrap_err().to_string();
        assert!(why.contains("`mlp`; it has linear, query"), "{why}");
    }

    #[test]
    fn names_say_what_is_pruned_too() {
        let named = |name: &str| Shape { role: LayerRole::Up, ..Shape::matrix(name, 2, 2) };
        let shapes = ["blocks.0.up.weight", "blocks.11.up.weight", "fc1.weight"].map(named);
        let keep = |text: &str| Prunable { keep: vec![text.parse().unwrap()], ..Prunable::default() };
        let taken = |p: &Prunable| shapes.each_ref().map(|s| p.takes(s));
        assert_eq!(taken(&keep("blocks.?.up")), [false, true, true]);
        assert_eq!(taken(&keep("blocks.*")), [false, false, true]);
        assert_eq!(taken(&keep("fc1.weight")), [true, true, false]);
        assert_eq!(taken(&Prunable { prune: vec!["*.up".parse().unwrap()], ..true.into() }), [true, true, false]);
        let why = keep("fc2.weight").check(shapes.iter()).unwrap_err().to_string();
        assert!(
            why.contains("named `fc2.weight` (did you mean `fc1.weight`?); there are blocks.0.up.weight, "),
            "{why}"
        );
        let why = "fc1".parse::<LayerSet>().unwrap_err().to_string();
        assert!(why.contains("a name of layers has a dot, * or ?"), "{why}");
        let text = r#"{"head":false,"prune":[],"keep":["up","fc*"]}"#;
        let read: Prunable = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert!(!read.takes(&shapes[2]) && !read.takes(&shapes[0]));
    }

    #[test]
    fn roles_are_words_and_old_files_still_read() {
        for role in LayerRole::ALL {
            assert_eq!(role.to_string().parse::<LayerRole>().unwrap(), role);
        }
        let why = "atention".parse::<LayerRole>().unwrap_err().to_string();
        assert!(why.contains("did you mean `attention`?"), "{why}");
        for (prunable, text) in [
            (Prunable::from(true), "true"),
            (
                Prunable { keep: vec![LayerRole::Up.into()], ..Prunable::default() },
                r#"{"head":false,"prune":[],"keep":["up"]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&prunable).unwrap(), text);
            assert_eq!(serde_json::from_str::<Prunable>(text).unwrap(), prunable);
        }
    }
}
