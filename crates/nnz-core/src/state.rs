//! State that a run saves between two steps, defined once for both directions.

use crate::{Error, Result};

/// Something that a checkpoint saves. One function writes and reads: it names every variable, and the visitor either
/// takes the values or replaces them. What is visited must not depend on which of the two happens, but a value
/// that was visited may decide what is visited after it.
///
/// ```
/// use nnz_core::{Result, State, Visit};
///
/// struct Mean { seen: u64, sum: Vec<f64> }
///
/// impl State for Mean {
///     fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
///         v.count("seen", &mut self.seen)?;
///         v.reals("sum", &mut self.sum)
///     }
/// }
/// ```
pub trait State {
    /// Shows every variable to the visitor.
    ///
    /// # Errors
    /// When the values read do not fit. Then some may have been replaced already, and this must not be used further.
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()>;
}

/// No state.
impl State for () {
    fn visit(&mut self, _: &mut dyn Visit) -> Result<()> {
        Ok(())
    }
}

impl<S: State + ?Sized> State for Box<S> {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        (**self).visit(v)
    }
}

/// Numbers of one type.
#[derive(Debug)]
pub enum Numbers<'a> {
    /// 32-bit reals.
    F32(&'a mut Vec<f32>),
    /// 64-bit reals.
    F64(&'a mut Vec<f64>),
    /// 8-bit counts: bytes, texts.
    U8(&'a mut Vec<u8>),
    /// 32-bit counts: indices.
    U32(&'a mut Vec<u32>),
    /// 64-bit counts: positions, words of bits.
    U64(&'a mut Vec<u64>),
}

impl Numbers<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::U64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes the values that a [`State`] shows, or replaces them by saved ones. Names are unique within one state.
pub trait Visit {
    /// An array of the given extents, row-major. Reading sets both; the type of the numbers must be that of the file.
    ///
    /// # Errors
    /// When there is no such array, or it has another type.
    fn array(&mut self, name: &str, extents: &mut Vec<usize>, numbers: Numbers) -> Result<()>;

    /// A vector of any length.
    ///
    /// # Errors
    /// Those of [`Visit::array`], or when it has more than one axis.
    fn vector(&mut self, name: &str, numbers: Numbers) -> Result<()> {
        let mut extents = vec![numbers.len()];
        self.array(name, &mut extents, numbers)?;
        match extents.len() {
            1 => Ok(()),
            axes => Err(Error::Refused(format!("`{name}` has {axes} axes, expected a vector"))),
        }
    }

    /// A vector of reals of any length.
    ///
    /// # Errors
    /// Those of [`Visit::vector`].
    fn reals(&mut self, name: &str, values: &mut Vec<f64>) -> Result<()> {
        self.vector(name, Numbers::F64(values))
    }

    /// One real.
    ///
    /// # Errors
    /// Those of [`Visit::vector`], or when its length is not one.
    fn real(&mut self, name: &str, value: &mut f64) -> Result<()> {
        let mut one = vec![*value];
        self.vector(name, Numbers::F64(&mut one))?;
        *value = single(name, &one)?;
        Ok(())
    }

    /// One count.
    ///
    /// # Errors
    /// Those of [`Visit::vector`], or when its length is not one.
    fn count(&mut self, name: &str, value: &mut u64) -> Result<()> {
        let mut one = vec![*value];
        self.vector(name, Numbers::U64(&mut one))?;
        *value = single(name, &one)?;
        Ok(())
    }

    /// A text.
    ///
    /// # Errors
    /// Those of [`Visit::vector`], or when it is not text.
    fn text(&mut self, name: &str, value: &mut String) -> Result<()> {
        let mut bytes = std::mem::take(value).into_bytes();
        self.vector(name, Numbers::U8(&mut bytes))?;
        *value = String::from_utf8(bytes).map_err(|_| Error::Refused(format!("`{name}` is no text")))?;
        Ok(())
    }
}

fn single<V: Copy>(name: &str, values: &[V]) -> Result<V> {
    match values {
        [one] => Ok(*one),
        other => Err(Error::Refused(format!("`{name}` holds {} numbers, expected one", other.len()))),
    }
}

/// Shows `state` with `prefix.` before its names.
///
/// # Errors
/// Those of the state.
pub fn visit_within(v: &mut dyn Visit, prefix: &str, state: &mut dyn State) -> Result<()> {
    struct Within<'v> {
        inner: &'v mut dyn Visit,
        prefix: &'v str,
    }
    impl Visit for Within<'_> {
        fn array(&mut self, name: &str, extents: &mut Vec<usize>, numbers: Numbers) -> Result<()> {
            self.inner.array(&format!("{}.{name}", self.prefix), extents, numbers)
        }
    }
    state.visit(&mut Within { inner: v, prefix })
}
