//! Options of methods: one definition gives the struct, its defaults, its ranges, and the text of `nnz show`.

use crate::{Error, Result};
use serde::Serialize;
use std::fmt;

/// Range of a number.
///
/// ```
/// use nnz_core::{above, at_least};
///
/// assert_eq!(above(0.0).at_most(1.0).to_string(), "above 0 and at most 1");
/// assert!(above(0.0).at_most(1.0).check("share", 0.0).is_err());
/// assert!(at_least(1.0).check("rank", 64.0).is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    low: f64,
    high: f64,
    /// Whether `low` and `high` are excluded.
    open: [bool; 2],
}

/// Numbers greater than `low`.
pub const fn above(low: f64) -> Bounds {
    Bounds { low, high: f64::INFINITY, open: [true, true] }
}

/// Numbers greater than or equal to `low`.
pub const fn at_least(low: f64) -> Bounds {
    Bounds { low, high: f64::INFINITY, open: [false, true] }
}

impl Bounds {
    /// Adds an upper bound, included.
    pub const fn at_most(self, high: f64) -> Self {
        Self { high, open: [self.open[0], false], ..self }
    }

    /// Adds an upper bound, excluded.
    pub const fn below(self, high: f64) -> Self {
        Self { high, open: [self.open[0], true], ..self }
    }

    /// Returns a number outside the bounds.
    pub fn outside(&self) -> f64 {
        self.low - 1.0
    }

    /// Whether a number lies within the bounds. Infinities and NaN never do.
    pub fn contains(&self, x: f64) -> bool {
        let low = if self.open[0] { x > self.low } else { x >= self.low };
        let high = if self.open[1] { x < self.high } else { x <= self.high };
        low && high && x.is_finite()
    }

    /// Refuses a number outside the bounds, naming its option.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn check(&self, name: &'static str, got: f64) -> Result<()> {
        match self.contains(got) {
            true => Ok(()),
            false => Err(Error::Range { name, range: self.to_string(), got }),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", if self.open[0] { "above" } else { "at least" }, self.low)?;
        match (self.high.is_finite(), self.open[1]) {
            (false, _) => Ok(()),
            (true, true) => write!(f, " and below {}", self.high),
            (true, false) => write!(f, " and at most {}", self.high),
        }
    }
}

impl Serialize for Bounds {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Documentation of one option.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OptionDoc {
    /// Its name.
    pub key: &'static str,
    /// Its default, as TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<toml::Value>,
    /// Its text.
    pub doc: String,
    /// Its range, for a number with bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Bounds>,
}

impl OptionDoc {
    /// Joins the lines of a documentation comment.
    pub fn new(key: &'static str, lines: &[&str], range: Option<Bounds>) -> Self {
        let lines: Vec<&str> = lines.iter().map(|l| l.trim()).collect();
        Self { key, default: None, doc: lines.join(" "), range }
    }
}

/// A self-describing set of options, as made by [`options!`](crate::options!) and [`group!`](crate::group!).
pub trait Documented {
    /// Every option in order, without its default.
    fn docs() -> Vec<OptionDoc>;

    /// Refuses numbers outside their bounds.
    ///
    /// # Errors
    /// [`Error::Range`] with the name of the first.
    fn check(&self) -> Result<()>;
}

/// The options of a method, each with its documentation, type, default and, for numbers, its bounds:
///
/// ```
/// nnz_core::options! {
///     #[flatten]
///     /// What is left.
///     budget: nnz_core::Budget = nnz_core::Budget::new(0.1, nnz_core::DistributionKind::Global),
///     /// Share of the rows trained at a time.
///     share: f64 = 0.25 => nnz_core::above(0.0).at_most(1.0),
/// }
/// # use nnz_core::Documented;
/// # fn main() {
/// assert_eq!(Options::default().share, 0.25);
/// let bad = Options { share: 2.0, ..Options::default() };
/// assert_eq!(bad.check().unwrap_err().to_string(), "share must be above 0 and at most 1, got 2");
/// assert_eq!(Options::docs().last().unwrap().doc, "Share of the rows trained at a time.");
/// # }
/// ```
///
/// This makes the struct `Options` with public fields, its `Default` and its parser. A first entry marked `#[flatten]` is a
/// group of options, such as [`Budget`](crate::Budget), whose options appear among the method's own.
#[macro_export]
macro_rules! options {
    (
        $(#[flatten] $(#[doc = $about:expr])* $group:ident : $Group:ty = $given:expr,)?
        $($(#[doc = $doc:expr])+ $field:ident : $Type:ty = $default:expr $(=> $bounds:expr)?,)*
    ) => {
        /// Options.
        #[derive(Clone, Debug, $crate::serde::Serialize, $crate::serde::Deserialize)]
        #[serde(crate = "nnz_core::serde")]
        pub struct Options {
            $($(#[doc = $about])* #[serde(flatten)] pub $group: $Group,)?
            $($(#[doc = $doc])+ pub $field: $Type,)*
        }

        impl Default for Options {
            fn default() -> Self {
                Self { $($group: $given,)? $($field: $default,)* }
            }
        }

        $crate::options!(@documented Options [$($group: $Group)?] $($(#[doc = $doc])+ $field $(=> $bounds)?,)*);
    };
    (@documented $Name:ident [$($group:ident: $Group:ty)?]
        $($(#[doc = $doc:expr])+ $field:ident $(=> $bounds:expr)?,)*
    ) => {
        impl $crate::Documented for $Name {
            fn docs() -> Vec<$crate::OptionDoc> {
                #[allow(unused_mut)]
                let mut all: Vec<$crate::OptionDoc> = vec![$($crate::OptionDoc::new(
                    stringify!($field),
                    &[$($doc),+],
                    $crate::options!(@bounds $($bounds)?),
                )),*];
                $(all.splice(..0, <$Group as $crate::Documented>::docs());)?
                all
            }

            #[allow(clippy::unnecessary_cast)]
            fn check(&self) -> $crate::Result<()> {
                $($crate::Documented::check(&self.$group)?;)?
                $($($bounds.check(stringify!($field), self.$field as f64)?;)?)*
                Ok(())
            }
        }
    };
    (@bounds) => { None };
    (@bounds $bounds:expr) => { Some($bounds) };
}

/// A group of options that several methods share; as [`options!`](crate::options!), but with a name and without defaults, which
/// every method sets for itself.
#[macro_export]
macro_rules! group {
    (
        $(#[doc = $name:expr])+ $Name:ident
        $(#[flatten] $(#[doc = $about:expr])* $group:ident : $Group:ty,)?
        $($(#[doc = $doc:expr])+ $field:ident : $Type:ty $(=> $bounds:expr)?,)*
    ) => {
        $(#[doc = $name])+
        #[derive(Clone, Copy, Debug, PartialEq, $crate::serde::Serialize, $crate::serde::Deserialize)]
        #[serde(crate = "nnz_core::serde")]
        pub struct $Name {
            $($(#[doc = $about])* #[serde(flatten)] pub $group: $Group,)?
            $($(#[doc = $doc])+ pub $field: $Type,)*
        }

        $crate::options!(@documented $Name [$($group: $Group)?] $($(#[doc = $doc])+ $field $(=> $bounds)?,)*);
    };
}
